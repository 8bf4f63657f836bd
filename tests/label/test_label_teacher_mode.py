"""Networks in the loop that answer by the statistics of the batch, as the released code of SRe2L does for CIFAR."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from datastill.artifact import DistilledDataset
from datastill.networks import Network
from datastill.recipe import TrainRecipe, choice
from datastill.training.supply import Batch
from reference import tiny

STUDENT = TrainRecipe(batch=9, epochs=3, crop=1, flip=False, mix="mixup")


def made(mode: str) -> DistilledDataset:
    return tiny.distilled(None, label=choice("dynamic", teacher_mode=mode), match=choice("none"))


def batches(distilled: DistilledDataset) -> list[Batch]:
    expanded = distilled.expand()
    work = STUDENT.work(len(expanded.images))
    supplied = distilled.fields.label.supply(
        expanded, work, STUDENT, 0, device=torch.device("cpu"), teachers=distilled.teachers
    )
    return list(islice(supplied, 3))


def by_batch(network: Network, x: Tensor) -> Tensor:
    """Return the logits of a ConvNet of Conv, BatchNorm, ReLU and pool in a row, with the statistics of the batch."""
    h = network.space(x)
    for module in (m for m in network.body.modules() if not list(m.children())):
        if isinstance(module, nn.BatchNorm2d):
            h = functional.batch_norm(h, None, None, module.weight, module.bias, True, 0.0, module.eps)
        else:
            h = module(h.flatten(1) if isinstance(module, nn.Linear) else h)
    return h


def test_the_statistics_of_the_batch_are_used_and_nothing_is_remembered() -> None:
    by_the_batch, plain = made("batch"), made("eval")
    networks = by_the_batch.teachers
    before = {name: tiny.state(network) for name, network in networks.items()}
    found, told = batches(by_the_batch), batches(plain)
    for one, other in zip(found, told, strict=True):
        assert torch.equal(one.x, other.x)
        assert not torch.allclose(one.target, other.target, atol=0.05)
        wanted = sum(by_batch(network, one.x) for network in networks.values()) / len(networks)
        torch.testing.assert_close(one.target, wanted, rtol=1e-4, atol=1e-4)
        assert not one.target.requires_grad
    for name, network in networks.items():
        assert all(torch.equal(before[name][key], value) for key, value in network.state_dict().items())
        assert not any(module.training for module in network.modules())
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all(norm.track_running_stats for norm in norms)


def test_an_answer_depends_on_the_batch_in_this_mode_alone() -> None:
    for mode, depends in (("eval", False), ("batch", True)):
        distilled = made(mode)
        expanded = distilled.expand()
        recipe = TrainRecipe(batch=24, epochs=1, crop=0, flip=False)
        half = TrainRecipe(batch=12, epochs=1, crop=0, flip=False)
        whole, part = (
            next(iter(distilled.fields.label.supply(
                expanded, r.work(24), r, 0, device=torch.device("cpu"), teachers=distilled.teachers
            )))
            for r in (recipe, half)
        )  # fmt: skip
        assert torch.equal(part.rows, whole.rows[:12])
        assert torch.allclose(part.target, whole.target[:12], atol=1e-4) is not depends
