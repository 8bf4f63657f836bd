"""Densification: where it is nothing, that it is nothing on pictures as released, and what it does where it works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.match.densify import densification
from reference import gvbsm


def images(count: int, scale: float = 1.0, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(count, 3, side, side, generator=generator)


def test_densification_of_one_image_of_each_class_is_nothing() -> None:
    x = images(4, 0.01).requires_grad_()
    loss = densification(x, torch.arange(4), 4.0)
    assert float(loss) == 0.0
    assert not loss.requires_grad


@pytest.mark.parametrize("scale", ["released", "mean"])
def test_densification_of_orthogonal_images_of_one_norm_is_nothing(scale: Any) -> None:
    x = torch.zeros(4, 3, 32, 32)
    for i in range(4):
        x[i, 0, i] = 0.3
    assert float(densification(x, torch.zeros(4, dtype=torch.long), 4.0, scale)) == pytest.approx(0.0, abs=1e-9)


def test_densification_as_released_is_inert_on_pictures_and_works_on_faint_ones() -> None:
    smooth = torch.nn.functional.avg_pool2d(images(10, 9.0), 5, stride=1, padding=2)  # like pictures, not like noise
    for x, active in ((smooth, False), (images(10, 0.02), True)):
        leaf = x.clone().requires_grad_()
        loss = densification(leaf, torch.zeros(10, dtype=torch.long), 4.0)
        (slope,) = torch.autograd.grad(loss, leaf)
        assert (float(loss.detach()) > 0.0) == active
        assert bool(slope.any()) == active


def test_densification_over_the_mean_works_on_pictures_and_draws_them_apart() -> None:
    x = (images(1) + images(6, 0.5).roll(3, 3)).requires_grad_()
    cls = torch.zeros(6, dtype=torch.long)
    adam = torch.optim.Adam([x], lr=0.05)
    found = []
    for _ in range(20):
        loss = densification(x, cls, 4.0, "mean")
        found.append(float(loss.detach()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert found[0] > 1.0
    assert found[-1] < 0.8 * found[0]


def test_densification_is_the_sum_over_classes_whatever_their_sizes_and_orders() -> None:
    x, cls = images(11, 0.05, side=8), torch.tensor([0, 2, 2, 1, 1, 1, 0, 3, 2, 4, 4])
    plain = gvbsm.spread(x.double(), cls, 4.0, False)
    torch.testing.assert_close(densification(x.double(), cls, 4.0), plain)
    order = torch.tensor([3, 1, 4, 10, 5, 9, 2, 6, 8, 7, 0])
    torch.testing.assert_close(densification(x.double()[order], cls[order], 4.0), plain)


def test_large_pictures_are_averaged_down_before() -> None:
    large = torch.nn.functional.interpolate(images(5, 0.05), scale_factor=2.0, mode="nearest")
    cls = torch.zeros(5, dtype=torch.long)
    torch.testing.assert_close(densification(large, cls, 4.0), densification(images(5, 0.05), cls, 4.0))
