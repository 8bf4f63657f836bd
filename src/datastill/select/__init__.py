"""Which real images may be looked at, and from which the store begins."""

from datastill.select.bilp import Bilp
from datastill.select.easy import EasyFirst
from datastill.select.el2n import EL2N
from datastill.select.forgetting import Forgetting
from datastill.select.herding import Herding
from datastill.select.kcenter import KCenter
from datastill.select.random import Random

__all__ = ["EL2N", "Bilp", "EasyFirst", "Forgetting", "Herding", "KCenter", "Random"]
