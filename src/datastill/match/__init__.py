"""What the images are pulled towards."""

from datastill.match.noise import Noise
from datastill.match.none import None_
from datastill.match.statistics import Statistics
from datastill.match.various import Various

__all__ = ["Noise", "None_", "Statistics", "Various"]
