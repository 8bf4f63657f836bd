"""In how many steps a set is distilled, each given the ones before."""

from datastill.stages.once import Once

__all__ = ["Once"]
