"""What the images are pulled towards."""

from datastill.match.noise import Noise
from datastill.match.none import None_
from datastill.match.statistics import Statistics

__all__ = ["Noise", "None_", "Statistics"]
