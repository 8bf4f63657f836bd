"""The parameterizations: what is learned and kept, and how it becomes images."""

from datastill.store.coded import Coded
from datastill.store.compensated import Compensated
from datastill.store.crops import Crops
from datastill.store.pixels import Pixels
from datastill.store.synthetic import Synthetic
from datastill.store.tiles import Tiles

__all__ = ["Coded", "Compensated", "Crops", "Pixels", "Synthetic", "Tiles"]
