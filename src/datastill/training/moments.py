"""Statistics of real images at the inputs of a network's layers, measured once and cached.

arXiv 2311.17950 (G-VBSM). N real rows, B of a batch, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from datastill.networks import Network
from datastill.networks.conv_taps import InputTaps, Moments
from datastill.recipe import TrainRecipe
from datastill.runtime.cache import cache_dir, locked
from datastill.runtime.device import Device
from datastill.runtime.files import digest_of, load_arrays, save_arrays
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from datastill.settings import chosen
from datastill.training.supply import Data
from datastill.training.views import View, to_unit

VERSION = 1  # of what is measured; part of every key, raised when the same network and rows would give other numbers


@dataclass(frozen=True)
class Measuring:
    """What is measured, as a value. Its key is the address of the numbers.

    network: whose weights count, not how they came about. data_key: names the rows. augmentation: whose crops and flips
    are drawn; it mixes nothing here. batch: B. patch: side of the patches. precision: of the forward passes.
    """

    network: Network
    data_key: str
    augmentation: TrainRecipe
    batch: int
    patch: int
    precision: str

    @property
    def frame(self) -> TrainRecipe:
        """The crops and flips alone."""
        own = self.augmentation
        return replace(
            TrainRecipe(), crop=own.crop, resized_crop=own.resized_crop, flip=own.flip, cutout=own.cutout, mix="none"
        )

    @property
    def key(self) -> str:
        """The hash of everything that decides the numbers."""
        settings = [self.batch, self.patch, self.precision]
        return digest_of([VERSION, weights_hash(self.network), self.data_key, chosen(self.frame), settings])


def real_moments(
    measuring: Measuring,
    taps: InputTaps,
    data: Callable[[], Data],
    *,
    device: Device,
    reporter: Reporter,
    label: str,
    root: Path | None = None,
) -> dict[str, Moments]:
    """Return for every tapped convolution what `data()` gives, (mean, variance, patch mean, patch variance), by name.

    Each is float32[C] or float32[P], the sum over batches of (B / N) * (the batch's own): a mean of variances within
    batches, not the variance of all. From the cache where it is there.

    Args:
        measuring: the address.
        taps: on the same network.
        data: returns the real rows.
        device, reporter: where, and who is told.
        label: the name of the phase.
        root: folder of the files; None takes `moments` in the cache folder.
    """
    path = (root or cache_dir() / "moments") / f"{measuring.key}.safetensors"
    with locked(path):
        if not path.exists():
            save_arrays(path, _measured(measuring, taps, data().to(device.torch), device, reporter, label))
    kept = load_arrays(path)
    names = [hook.name for hook in taps.hooks if hook.kind == "conv"]
    return {name: tuple(kept[f"{name}/{i}"].to(device.torch) for i in range(4)) for name in names}


@torch.no_grad()
def _measured(
    measuring: Measuring, taps: InputTaps, data: Data, device: Device, reporter: Reporter, label: str
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    with reporter.phase(label, -(-len(data) // measuring.batch)) as phase, device.autocast():
        for x in _batches(measuring, data):
            _, found, _ = taps(x)
            for hook, moments in zip(taps.hooks, found, strict=True):
                for i, value in enumerate(moments if moments and hook.kind == "conv" else ()):
                    name, share = f"{hook.name}/{i}", (len(x) / len(data)) * value[0].double()
                    sums[name] = sums[name] + share if name in sums else share
            phase.advance()
    return {name: total.float() for name, total in sums.items()}


def _batches(measuring: Measuring, data: Data) -> Iterator[Tensor]:
    """Yield the augmented pixels of all rows once, in an order that mixes the classes; the last batch may be short."""
    shape = (data.images.shape[1], data.images.shape[2], data.images.shape[3])
    order = torch.from_numpy(rng(0, "real moments", "order").permutation(len(data)))
    for step, rows in enumerate(order.split(measuring.batch)):
        view = View.draw(rng(0, "real moments", step), len(rows), shape, measuring.frame).to(data.images.device)
        yield to_unit(view.apply(data.images[rows.to(data.images.device)]))


def weights_hash(network: Network) -> str:
    """Return a hex hash of everything that a network remembers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        kept = value.detach().cpu().contiguous()
        digest.update(f"{name} {kept.dtype} {tuple(kept.shape)}".encode())
        digest.update(kept.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
