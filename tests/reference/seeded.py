"""Views that a seed names, the plain way: one item, one view, one pixel at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datastill.networks import Network
from datastill.values import SeededViews
from reference import augment


def seen(image: np.ndarray, item: int, view: int, views: SeededViews) -> np.ndarray:
    """Return image [C, H, W], which is item number `item`, as its view number `view`."""
    name = f"{views.seed}\x1fviews\x1f{view}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") // 2
    word = int(np.random.Philox(key=key).random_raw(item + 1)[item])
    rest, row = divmod(word, 2 * views.crop + 1)
    rest, column = divmod(rest, 2 * views.crop + 1)
    return augment.cropped(image, views.crop, (row, column), views.flip and rest % 2 == 1)


def told(images: np.ndarray, networks: Sequence[Network], views: SeededViews) -> Tensor:
    """Return float64[N, V, K]: what the networks say on average of each view [C, H, W] of each image, one at a time."""
    rows = []
    for item, image in enumerate(images):
        for view in range(views.count):
            x = torch.from_numpy(seen(image, item, view, views))[None]
            pixels = x.float() / 255 if x.dtype == torch.uint8 else x
            with torch.no_grad():
                rows.append(sum(network(pixels)[0].double() for network in networks) / len(networks))
    return torch.stack([torch.as_tensor(row) for row in rows]).view(len(images), views.count, -1)
