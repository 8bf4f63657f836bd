"""The parameterizations: what is learned and kept, and how it becomes images."""

from datastill.store.coded import Coded
from datastill.store.compensated import Compensated
from datastill.store.pixels import Pixels

__all__ = ["Coded", "Compensated", "Pixels"]
