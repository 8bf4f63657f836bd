"""Where boxes stand, and what stands in them stretched to the whole."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datastill.training.boxes import Boxes, box_side, corners
from datastill.training.views import to_unit
from reference import boxes as plain


def images(dtype: torch.dtype = torch.uint8, height: int = 8, width: int = 8, count: int = 6) -> Tensor:
    drawn = torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0))
    return drawn.to(torch.uint8) if dtype == torch.uint8 else drawn.to(dtype) / 251 % 1


@pytest.mark.parametrize(
    ("side", "box", "stride"), [(32, 20, 3), (64, 40, 6), (128, 80, 12), (224, 140, 21), (256, 160, 24)]
)
def test_five_boxes_of_five_eighths_stand_where_the_specification_says(side: int, box: int, stride: int) -> None:
    found = corners(side, box_side(side, 0.625), 5)
    assert box_side(side, 0.625) == box
    assert found == [0, stride, 2 * stride, 3 * stride, 4 * stride]
    assert found[-1] + box == side
    assert {p for first in found for p in range(first, first + box)} == set(range(side))
    assert sum(0 in range(first, first + box) for first in found) == 1  # a corner belongs to one box,
    assert all(first <= side // 2 < first + box for first in found)  # the middle to all


def test_halves_go_upwards_where_python_rounds_to_even() -> None:
    assert (box_side(20, 0.625), round(20 * 0.625)) == (13, 12)
    assert corners(9, 4, 3) == [0, 3, 5]  # 2.5 in the middle
    assert corners(8, 5, 1) == [2]


def test_a_share_of_the_area_is_the_root_of_it_of_a_side() -> None:
    assert (box_side(32, 0.625, "area"), box_side(32, 0.390625, "area")) == (25, 20)
    assert box_side(32, 1.0, "area") == 32


@given(st.integers(2, 300), st.integers(1, 12), st.data())
def test_corners_are_those_of_exact_fractions_and_mirror_images_of_each_other(
    side: int, grid: int, data: st.DataObject
) -> None:
    box = data.draw(st.integers(1, side))
    found = corners(side, box, grid)
    assert found == plain.corners(side, box, grid)
    assert found == sorted(found)
    if grid > 1:
        assert (found[0], found[-1]) == (0, side - box)
    if grid > 1 and (side - box) % (grid - 1) == 0:
        assert [side - box - first for first in reversed(found)] == found


@pytest.mark.parametrize(("height", "width", "grid"), [(8, 8, 3), (8, 8, 4), (8, 16, 3), (32, 32, 5), (17, 13, 4)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_box_is_cut_and_stretched_as_torch_resizes_the_cut(
    height: int, width: int, grid: int, dtype: torch.dtype
) -> None:
    x = images(dtype, height, width, count=3)
    every = torch.arange(grid * grid).repeat(3)
    found = Boxes.on(height, width, grid, 0.625).cut(x.repeat_interleave(grid * grid, dim=0), every)
    wanted = torch.stack(list(plain.all_stretched(to_unit(x), grid, Fraction(5, 8))))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_box_that_is_the_whole_picture_is_the_picture_to_the_bit(dtype: torch.dtype) -> None:
    x = images(dtype)
    assert torch.equal(Boxes.on(8, 8, 1, 1.0).cut(x, torch.zeros(6).long()), to_unit(x))


def test_nothing_outside_of_a_box_shows_in_it() -> None:
    boxes = Boxes.on(8, 8, 4, 0.625)
    first, second = images(), images()
    second[:, :, 5:] = 255 - second[:, :, 5:]  # below the boxes of the first row
    for j in range(4):
        which = torch.full((6,), j)
        assert torch.equal(boxes.cut(first, which), boxes.cut(second, which))
    assert not torch.equal(boxes.cut(first, which + 4), boxes.cut(second, which + 4))


def test_a_picture_comes_out_the_same_to_the_bit_in_any_batch() -> None:
    x, which = images(count=20), torch.arange(20) % 9
    boxes = Boxes.on(8, 8, 3, 0.625)
    whole = boxes.cut(x, which)
    for i in range(20):
        assert torch.equal(boxes.cut(x[i : i + 1], which[i : i + 1])[0], whole[i])


@pytest.mark.parametrize(("side", "grid"), [(8, 4), (32, 5)])
def test_boxes_of_a_mirrored_picture_are_the_mirrored_boxes(side: int, grid: int) -> None:
    x, boxes = images(height=side, width=side), Boxes.on(side, side, grid, 0.625)
    for a in range(grid):
        for b in range(grid):
            mirrored = boxes.cut(x.flip(3), torch.full((6,), a * grid + (grid - 1 - b)))
            torch.testing.assert_close(mirrored.flip(3), boxes.cut(x, torch.full((6,), a * grid + b)))
