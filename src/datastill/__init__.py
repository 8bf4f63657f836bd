"""Datastill: distil an image classification set into a few images and labels, and say honestly how good they are."""

from datastill.api import compare, distill, evaluate, relabel
from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError
from datastill.recipe import Recipe
from datastill.runtime.versions import VERSION as __version__
from datastill.sources import Dataset, load

__all__ = [
    "Dataset",
    "DatastillError",
    "DistilledDataset",
    "Recipe",
    "__version__",
    "compare",
    "distill",
    "evaluate",
    "load",
    "relabel",
]
