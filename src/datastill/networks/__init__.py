"""Networks: own families for small images, adapters to timm and torchvision, spaces, and taps on BatchNorm."""

from __future__ import annotations

from datastill.networks import convnet, efficientnet, mobilenet, resnet, shufflenet, vit, wideresnet
from datastill.networks.body import Body, Network, Shape
from datastill.networks.registry import create_network, list_networks, network, sketch
from datastill.networks.space import Space

# The modules of the families are named here because importing them is what registers their networks.
__all__ = [
    "Body",
    "Network",
    "Shape",
    "Space",
    "convnet",
    "create_network",
    "efficientnet",
    "list_networks",
    "mobilenet",
    "network",
    "resnet",
    "shufflenet",
    "sketch",
    "vit",
    "wideresnet",
]
