"""Downstream proxies: what a distilled set is good for beside training one network."""

from datastill.measure.proxies.continual import continual
from datastill.measure.proxies.hyper import hyper
from datastill.measure.proxies.search import nas

__all__ = ["continual", "hyper", "nas"]
