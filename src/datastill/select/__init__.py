"""Which real images may be looked at, and from which the store begins."""

from datastill.select.random import Random

__all__ = ["Random"]
