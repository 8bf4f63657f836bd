"""What the images are pulled towards."""

from datastill.match.features import Features
from datastill.match.gradients import Gradients
from datastill.match.living import Living
from datastill.match.noise import Noise
from datastill.match.none import None_
from datastill.match.statistics import Statistics
from datastill.match.various import Various

__all__ = ["Features", "Gradients", "Living", "Noise", "None_", "Statistics", "Various"]
