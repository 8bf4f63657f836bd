"""Statistics of real images: what they are, and by what they are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from datastill.networks import Network, Space, create_network
from datastill.networks.conv_taps import InputTaps
from datastill.recipe import TrainRecipe
from datastill.runtime.progress import Reporter
from datastill.runtime.seeds import rng
from datastill.training.moments import Measuring, real_moments
from datastill.training.supply import Data
from datastill.training.views import View
from reference import gvbsm, tiny


def network(arch: str = "convnet", seed: int = 0) -> Network:
    data = tiny.dataset()
    space = Space(data.mean, data.std)
    made = create_network(arch, classes=4, shape=tiny.SHAPE, space=space, seed=seed, width=8)
    with torch.no_grad():
        made.train()(data.train.pixels.float() / 255.0)
    return made.eval().requires_grad_(False)


def measured(made: Network, root: Path, batch: int = 16, **augmentation: Any) -> tuple[Any, Any, Data]:
    ctx = tiny.context(given={})
    recipe = replace(TrainRecipe(crop=1, flip=True, mix="cutmix"), **augmentation)
    measuring = Measuring(made, ctx.real.key, recipe, batch, 4, "float32")
    taps = InputTaps(made, torch.zeros(1, *tiny.SHAPE))
    found = real_moments(
        measuring, taps, ctx.real.data, device=tiny.device(), reporter=Reporter(), label="measure", root=root
    )
    return measuring, found, ctx.real.data()


def test_real_targets_are_means_over_batches_of_augmented_images_in_eval_mode(tmp_path: Path) -> None:
    made = network("resnet10", 2)
    before = tiny.state(made)
    measuring, found, data = measured(made, tmp_path)
    order = torch.from_numpy(rng(0, "real moments", "order").permutation(len(data)))
    batches = []
    for step, rows in enumerate(order.split(16)):
        view = View.draw(rng(0, "real moments", step), len(rows), tiny.SHAPE, measuring.frame)
        assert view.partner is None
        batches.append(view.apply(data.images[rows]).double() / 255.0)
    double = network("resnet10", 2).double()
    plain = gvbsm.wanted(double, batches, 4)
    layers = gvbsm.statistics(double, batches[0], 4)[1]
    assert sum(layer.conv for layer in layers) == len(found)
    for layer, values in zip(layers, plain, strict=True):
        for mine, theirs in zip(found.get(layer.name, ()), values if layer.conv else (), strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


def test_real_targets_are_kept_by_weights_augmentation_batch_and_patch(tmp_path: Path) -> None:
    made = network()
    measuring, found, _ = measured(made, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    written = file.stat().st_mtime_ns
    again = measured(made, tmp_path, lr=0.3, mix="none")[1]  # neither changes what reaches a layer
    assert file.stat().st_mtime_ns == written
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert all(torch.equal(a, b) for name in found for a, b in zip(found[name], again[name], strict=True))
    keys = {
        measuring.key,
        Measuring(network(seed=1), measuring.data_key, measuring.augmentation, 16, 4, "float32").key,
        Measuring(made, "other rows", measuring.augmentation, 16, 4, "float32").key,
        Measuring(made, measuring.data_key, TrainRecipe(crop=2), 16, 4, "float32").key,
        Measuring(made, measuring.data_key, measuring.augmentation, 8, 4, "float32").key,
        Measuring(made, measuring.data_key, measuring.augmentation, 16, 2, "float32").key,
    }
    assert len(keys) == 6
