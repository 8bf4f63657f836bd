"""The data sets that are known by name: digits from scikit-learn, the others from the Hugging Face Hub."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from datastill.sources.listing import Listing, Opener


@dataclass(frozen=True)
class HubName:
    """Where a data set lies on the Hub: repository, configuration, label column, and a sentence on it."""

    repository: str
    about: str
    config: str | None = None
    label: str = "label"


@dataclass(frozen=True)
class Norm:
    """Channel means and deviations that the literature uses, for pixels in [0, 1], and the K of the whole set."""

    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


DIGITS = "1,797 grey 8x8 images of handwritten digits, 10 classes"

HUB = {
    "cifar10": HubName("uoft-cs/cifar10", "60,000 colour 32x32 images, 10 classes"),
    "cifar100": HubName("uoft-cs/cifar100", "60,000 colour 32x32 images, 100 classes", label="fine_label"),
    "fashion-mnist": HubName("zalando-datasets/fashion_mnist", "70,000 grey 28x28 images of clothing, 10 classes"),
    "imagenette": HubName("frgfm/imagenette", "13,394 colour photographs, 10 ImageNet classes", config="160px"),
    "mnist": HubName("ylecun/mnist", "70,000 grey 28x28 images of handwritten digits, 10 classes"),
    "svhn": HubName("ufldl-stanford/svhn", "99,289 colour 32x32 house numbers, 10 classes", config="cropped_digits"),
    "tiny-imagenet": HubName("zh-plus/tiny-imagenet", "110,000 colour 64x64 images, 200 classes"),
}

NORMS = {
    "cifar10": Norm(10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Norm(100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "tiny-imagenet": Norm(200, (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}


def list_digits() -> Listing:
    """List scikit-learn's digits; their grey values 0 to 16 become round(v * 255 / 16)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)  # [1797, 8, 8]

    def stream() -> Iterator[Opener]:
        return (partial(_png, picture) for picture in pixels)

    return Listing(
        name="digits",
        origin="digits",
        classes=tuple(str(name) for name in bunch.target_names),
        ids=tuple(f"digits/{row}" for row in range(len(pixels))),
        labels=bunch.target.astype(np.int64),
        testing=None,
        stream=stream,
        key=None,
        notes=("Grey values 0 to 16 were scaled to 0 to 255.",),
    )


def _png(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=0)
    return out.getvalue()
