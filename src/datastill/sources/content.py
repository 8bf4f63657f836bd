"""What decoded pixels amount to: a content hash, channel moments and a checksum. Blockwise, for mapped files."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from datastill.sources.pictures import Planes


def content_hash(
    classes: Sequence[str], ids: Sequence[str], labels: Sequence[int], pixels: Planes, trained: int
) -> str:
    """Return a SHA-256 over class names, ids, labels, shape, the split and pixels, as 64 hex digits.

    Args:
        classes: K names.
        ids: N names, training rows first.
        labels: N values, 0..K-1.
        pixels: uint8[N, C, H, W].
        trained: number of training rows.
    """
    head = [list(classes), list(ids), list(labels), list(pixels.shape), trained]
    digest = hashlib.sha256(json.dumps(head, separators=(",", ":")).encode())
    for block in _blocks(pixels):
        digest.update(block.data)
    return digest.hexdigest()


def channel_moments(pixels: Planes) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8[N, C, H, W], for pixels in [0, 1], to four digits.

    Taken in float64 from exact histograms. A channel that is the same everywhere has deviation 1: there is nothing to
    divide by.
    """
    channels = pixels.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    for block in _blocks(pixels):
        for channel in range(channels):
            counts[channel] += np.bincount(block[:, channel].ravel(), minlength=256)
    weights = counts / counts.sum(1, keepdims=True)
    values = np.arange(256) / 255
    means = weights @ values
    deviations = np.sqrt((weights * (values - means[:, None]) ** 2).sum(1))
    return [round(float(mean), 4) for mean in means], [round(float(one), 4) or 1.0 for one in deviations]


def checksum(pixels: Planes) -> int:
    """Return the CRC-32 of the pixels in row order: it finds damage, not malice."""
    value = 0
    for block in _blocks(pixels):
        value = zlib.crc32(block.data, value)
    return value


def _blocks(pixels: Planes) -> Iterator[Planes]:
    return (np.ascontiguousarray(pixels[start : start + 1024]) for start in range(0, len(pixels), 1024))
