"""Random resized crops: their windows, and what comes out of them."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from datastill.recipe import TrainRecipe
from datastill.runtime.seeds import rng
from datastill.training.views import View, _windows

RECIPE = TrainRecipe(resized_crop=0.08, flip=False, crop=4)


def test_windows_lie_inside_keep_their_share_of_the_area_and_their_ratio() -> None:
    top, left, height, width = _windows(rng(0, "windows"), 4000, 0.08).double().unbind(dim=1)
    assert float(top.min()) >= 0
    assert float(left.min()) >= 0
    assert float((top + height).max()) <= 1 + 1e-6
    assert float((left + width).max()) <= 1 + 1e-6
    area, ratio = height * width, width / height
    assert 0.08 - 1e-6 <= float(area.min()) < 0.1
    assert float(area.max()) > 0.9
    assert 3 / 4 - 1e-6 <= float(ratio.min()) < 0.8
    assert 1.25 < float(ratio.max()) <= 4 / 3 + 1e-6


def test_the_whole_picture_as_a_window_is_the_picture() -> None:
    x = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    view = View(window=torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 3))
    torch.testing.assert_close(view.apply(x), x.float() / 255, rtol=0, atol=1e-6)


def test_a_window_of_whole_pixels_is_that_part_stretched() -> None:
    x = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    found = View(window=torch.tensor([[2 / 8, 4 / 8, 4 / 8, 4 / 8]])).apply(x)
    wanted = functional.interpolate(x[:, :, 2:6, 4:8], (8, 8), mode="bilinear")
    torch.testing.assert_close(found[:, :, 1:7, 1:7], wanted[:, :, 1:7, 1:7], rtol=0, atol=1e-6)


def test_a_resized_crop_takes_the_place_of_the_padded_one_and_is_drawn_again_from_the_seed() -> None:
    view = View.draw(rng(3, "view", 0), 5, (3, 8, 8), RECIPE)
    again = View.draw(rng(3, "view", 0), 5, (3, 8, 8), RECIPE)
    assert view.shift is None
    assert view.window is not None
    assert again.window is not None
    assert torch.equal(view.window, again.window)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8))
    out = view.apply(x)
    assert out.dtype == torch.float32
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert not torch.equal(out, x.float() / 255)
