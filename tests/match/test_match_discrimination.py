"""CAFE's discrimination loss against autograd, finite cases and its plain twin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from datastill.match.discrimination import discrimination, slope
from datastill.runtime.seeds import rng
from reference import cafe

CLASSES, REAL, DIM = 3, 14, 6


def drawn(*names: object, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return real features, their classes, and centres."""
    stream = rng(0, "features", *names)
    cls = torch.from_numpy(stream.permutation([k % CLASSES for k in range(REAL)]))
    return (torch.from_numpy(stream.standard_normal((REAL, DIM))).to(dtype), cls,
            torch.from_numpy(stream.standard_normal((CLASSES, DIM))).to(dtype))  # fmt: skip


def test_the_closed_gradient_is_that_of_autograd() -> None:
    real, cls, centres = drawn()
    (wanted,) = torch.autograd.grad(discrimination(real, cls, centres.requires_grad_()), centres)
    found = slope(real, cls, centres)
    assert float((found - wanted).abs().max()) < 1e-12
    (of_product,) = torch.autograd.grad((found * centres).sum(), centres)
    assert torch.equal(of_product, found)
    assert not found.requires_grad


def test_it_is_the_plain_loop_over_images() -> None:
    real, cls, synthetic = drawn()
    mine = torch.tensor([2, 0, 1])
    centres = synthetic[mine.argsort()]
    wanted = cafe.discrimination(real, synthetic, (cls, mine), CLASSES)
    assert float(discrimination(real, cls, centres)) == pytest.approx(float(wanted), rel=1e-13)


def test_at_chance_it_is_the_number_of_images_times_the_logarithm_of_classes() -> None:
    real, cls, centres = drawn()
    assert float(discrimination(real, cls, torch.zeros_like(centres))) == pytest.approx(REAL * math.log(CLASSES))


def test_it_vanishes_where_centres_separate_the_classes_ever_more() -> None:
    cls = torch.arange(REAL) % CLASSES
    real = torch.nn.functional.one_hot(cls, DIM).double() + 0.1
    losses = [float(discrimination(real, cls, scale * torch.eye(CLASSES, DIM).double())) for scale in (1, 10, 100)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 1e-30


def test_renaming_the_classes_on_both_sides_leaves_it_as_it_is() -> None:
    real, cls, centres = drawn()
    names = torch.tensor([2, 0, 1])
    renamed = torch.empty_like(centres)
    renamed[names] = centres
    assert float(discrimination(real, names[cls], renamed)) == pytest.approx(float(discrimination(real, cls, centres)))


def test_real_features_may_be_taken_in_parts() -> None:
    real, cls, centres = drawn()
    whole, parts = slope(real, cls, centres), [slope(real[i::2], cls[i::2], centres) for i in range(2)]
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-12, atol=1e-12)


def test_large_features_of_16_bits_neither_overflow_nor_lose_the_softmax() -> None:
    real, cls, centres = drawn(dtype=torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        large, far = (200 * real).to(dtype), (200 * centres).to(dtype)  # products up to 1e6, beyond float16
        with torch.autocast("cpu", torch.bfloat16):
            found = discrimination(large, cls, far)
            gradient = slope(large, cls, far)
        assert found.dtype == gradient.dtype == torch.float32
        torch.testing.assert_close(found.double(), discrimination(large.double(), cls, far.double()), rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient.double(), slope(large.double(), cls, far.double()), rtol=1e-4, atol=1e-2)
