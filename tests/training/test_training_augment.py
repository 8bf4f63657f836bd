"""Differentiable augmentation of network inputs: against loops over single images, and what the papers say of it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datastill.errors import DatastillError
from datastill.runtime.seeds import rng
from datastill.training.augment import DRAWS, OPERATIONS, Augment, Drawn
from reference import augment as plain

Compose = Literal["one", "all"]
SHAPE = (3, 32, 32)
STILL = (1 - 1 / 1.2) / (1.2 - 1 / 1.2)  # where a factor of a side is 1
PARTS = ("color", "shift", "hole", "flip", "matrix")


def inputs(batch: int, shape: tuple[int, int, int] = SHAPE, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((batch, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def names_of(drawn: Drawn) -> list[str]:
    return [OPERATIONS[kind] for kind in drawn.kinds]


def same(one: Drawn, two: Drawn) -> bool:
    tensors = all(torch.equal(getattr(one, name), getattr(two, name)) for name in PARTS)
    return tensors and np.array_equal(one.kinds, two.kinds) and one.always == two.always


def pixels_emptied(z: Tensor) -> list[int]:
    return (z == 0).all(dim=1).sum((1, 2)).tolist()


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6), compose=st.sampled_from(["one", "all"]), channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9), width=st.integers(1, 9), last=st.booleans(),
    operations=st.lists(st.sampled_from(OPERATIONS), unique=True, max_size=6),
)  # fmt: skip
def test_a_batch_is_augmented_like_its_single_images(
    seed: int, compose: Compose, channels: int, height: int, width: int, last: bool, operations: list[str]
) -> None:
    shape = (channels, height, width)
    z = inputs(5, shape)
    z = z.contiguous(memory_format=torch.channels_last) if last else z
    u, before = rng(seed).random((5, DRAWS)), z.clone()
    found = Augment(tuple(operations), compose).read(u, shape).apply(z)
    wanted = [plain.operated(image, row, operations, compose) for image, row in zip(z.numpy(), u, strict=True)]
    # Numbers of a record are float32: a box of the grid is off by as much.
    np.testing.assert_allclose(found.numpy(), np.stack(wanted), rtol=0, atol=2e-5)
    assert torch.equal(z, before)


@pytest.mark.parametrize("compose", ["one", "all"])
def test_each_image_gets_what_it_would_get_alone(compose: Compose) -> None:
    z = inputs(40, dtype=torch.float32)
    drawn = Augment(OPERATIONS, compose).draw(rng(1), 40, SHAPE)
    assert len(drawn) == 40
    alone = [drawn.of(torch.tensor([i])).apply(z[i : i + 1]) for i in range(40)]
    torch.testing.assert_close(drawn.apply(z), torch.cat(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("compose", ["one", "all"])
def test_a_record_of_a_class_does_the_same_to_real_and_to_synthetic_images(compose: Compose) -> None:
    """Siamese: applying and then slicing is slicing and then applying, whatever else is in the batch."""
    real, synthetic = torch.arange(10).repeat_interleave(6), torch.arange(10).repeat_interleave(2)
    z = inputs(60)
    shared = z[::3]  # the second half of each class's images, as its synthetic ones
    drawn = Augment(OPERATIONS, compose).draw(rng(2), 10, SHAPE)
    assert len(set(names_of(drawn))) > 2
    both = drawn.of(real).apply(z)
    torch.testing.assert_close(drawn.of(synthetic).apply(shared), both[::3], rtol=0, atol=1e-12)
    free = Augment(OPERATIONS, compose).draw(rng(2), 60, SHAPE)
    assert not torch.allclose(free.of(torch.arange(60)).apply(z)[::3], free.of(torch.arange(20)).apply(shared))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("compose", ["one", "all"])
def test_gradients_are_those_of_finite_differences(name: str, compose: Compose) -> None:
    drawn = Augment((name,), compose).draw(rng(3), 3, (3, 6, 5))
    z, way = inputs(3, (3, 6, 5)).requires_grad_(), inputs(3, (3, 6, 5)).flip(0)
    weights = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z)

    def value(x: Tensor) -> Tensor:
        return (drawn.apply(x).pow(2) * weights).sum()

    (gradient,) = torch.autograd.grad(value(z), z)
    step = 1e-5 * way
    difference = (value(z.detach() + step) - value(z.detach() - step)) / 2e-5
    assert float((gradient * way).sum()) == pytest.approx(float(difference), rel=1e-7)
    assert torch.autograd.gradcheck(drawn.apply, (z,))


def test_the_means_of_color_carry_gradient() -> None:
    """One pixel moves the mean of its image, and so every other pixel."""
    u = np.full((1, DRAWS), 0.5)
    u[0, 3] = 0.9
    z = inputs(1, (1, 4, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(Augment(("color",), "one").read(u, (1, 4, 4)).apply(z)[0, 0, 0, 0], z)
    assert gradient[0, 0, 0, 0].item() == pytest.approx(1.4 - 0.4 / 16)
    assert gradient[0, 0, 3, 3].item() == pytest.approx(-0.4 / 16)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "cutout"])
def test_a_neutral_draw_is_the_identity(name: str) -> None:
    u = np.full((4, DRAWS), 0.5)
    u[:, 9:11] = STILL
    z = inputs(4)
    found = Augment((name,), "one").read(u, SHAPE).apply(z)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-6)
    if name in ("crop", "flip"):
        assert torch.equal(found, z)


def test_saturation_of_one_channel_is_always_neutral() -> None:
    u = np.full((5, DRAWS), 0.5)
    u[:, 2] = np.linspace(0, 0.99, 5)
    z = inputs(5, (1, 8, 8))
    torch.testing.assert_close(Augment(("color",), "one").read(u, (1, 8, 8)).apply(z), z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("compose", ["one", "all"])
def test_no_operation_leaves_the_very_inputs(compose: Compose) -> None:
    z = inputs(3)
    drawn = Augment((), compose).draw(rng(0), 3, SHAPE)
    assert drawn.apply(z) is z
    assert drawn.of(torch.tensor([2, 2])).apply(z) is z
    assert drawn.to(torch.device("cpu")).apply(z) is z


def test_cutout_empties_a_box_of_which_at_least_a_quarter_is_in_sight() -> None:
    drawn = Augment(("cutout",), "one").draw(rng(4), 3000, (1, 32, 32))
    emptied = pixels_emptied(drawn.apply(torch.ones(3000, 1, 32, 32)))
    assert (min(emptied), max(emptied)) == (64, 256)
    assert drawn.hole.unique().tolist() == list(range(33))  # a side of 16 is even
    odd = Augment(("cutout",), "one").draw(rng(4), 500, (1, 5, 5))
    assert odd.hole.unique().tolist() == list(range(5))  # a side of 3 is not


def test_a_crop_is_a_shift_in_a_frame_of_zeros() -> None:
    drawn = Augment(("crop",), "one").draw(rng(5), 500, SHAPE)
    z = inputs(500)
    found = drawn.apply(z)
    assert drawn.shift.unique().tolist() == list(range(-4, 5))
    for i in range(0, 500, 25):
        down, across = drawn.shift[i].tolist()
        framed = torch.nn.functional.pad(z[i], (4, 4, 4, 4))
        assert torch.equal(found[i], framed[:, 4 + down : 36 + down, 4 + across : 36 + across])
    assert Augment(("crop",), "one").draw(rng(5), 2000, (3, 64, 64)).shift.abs().max() == 8


def test_flipped_twice_is_not_flipped() -> None:
    drawn, z = Augment(("flip",), "one").draw(rng(6), 200, SHAPE), inputs(200)
    once = drawn.apply(z)
    assert torch.equal(once[drawn.flip], z[drawn.flip].flip(3))
    assert torch.equal(drawn.apply(once), z)
    assert 70 < int(drawn.flip.sum()) < 130


def test_numbers_stay_within_what_the_papers_say() -> None:
    drawn = Augment(("color",), "one").draw(rng(7), 20_000, SHAPE)
    least, most = drawn.color.amin(0).tolist(), drawn.color.amax(0).tolist()
    assert least == pytest.approx([-0.5, 0.0, 0.5], abs=1e-3)
    assert most == pytest.approx([0.5, 2.0, 1.5], abs=1e-3)
    scaled = Augment(("scale",), "one").draw(rng(7), 20_000, SHAPE).matrix
    assert [scaled[:, 0, 0].min().item(), scaled[:, 1, 1].max().item()] == pytest.approx([1 / 1.2, 1.2], abs=1e-3)
    assert scaled[:, 0, 1].abs().max() == scaled[:, 1, 0].abs().max() == 0
    assert not torch.equal(scaled[:, 0, 0], scaled[:, 1, 1])
    turned = Augment(("rotate",), "one").draw(rng(7), 20_000, SHAPE).matrix
    assert torch.rad2deg(turned[:, 1, 0].asin()).abs().max().item() == pytest.approx(15, abs=0.01)


def test_a_factor_above_one_shrinks_and_the_first_is_of_the_width() -> None:
    u = np.full((1, DRAWS), STILL)
    u[0, 9] = 1 - 1e-9
    found = Augment(("scale",), "one").read(u, SHAPE).apply(torch.ones(1, *SHAPE))
    assert (found[0, 0, 16] == 0).any()  # columns without content
    assert (found[0, 0, :, 16] > 0.99).all()  # and no row


def test_one_operation_for_each_record_and_all_come_equally_often() -> None:
    drawn = Augment(OPERATIONS, "one").draw(rng(8), 6000, SHAPE)
    counts = np.bincount(drawn.kinds, minlength=6)
    assert counts.sum() == 6000
    assert counts.min() > 850
    assert drawn.always == frozenset()
    z = inputs(60)
    some = drawn.of(torch.arange(60))
    for i, name in enumerate(names_of(some)):
        only = Augment((name,), "one").read(rng(8).random((6000, DRAWS))[i : i + 1], SHAPE)
        torch.testing.assert_close(some.apply(z)[i : i + 1], only.apply(z[i : i + 1]), rtol=0, atol=1e-12)


def test_all_together_run_color_crop_and_cutout_on_every_image() -> None:
    drawn = Augment(("color", "crop", "cutout"), "all").draw(rng(9), 300, SHAPE)
    assert drawn.always == {"color", "cutout"}
    assert set(names_of(drawn)) == {"crop"}
    z = inputs(300)
    found = drawn.apply(z)
    assert min(pixels_emptied(found)) >= 64
    step = z
    for name in ("color", "crop", "cutout"):
        step = Augment((name,), "one").draw(rng(9), 300, SHAPE).apply(step)
    assert torch.equal(found, step)


def test_all_together_take_one_of_what_moves_pixels() -> None:
    drawn = Augment(OPERATIONS, "all").draw(rng(10), 600, SHAPE)
    assert drawn.always == {"color", "cutout", "flip"}
    assert set(names_of(drawn)) == {"crop", "scale", "rotate"}
    still = Augment(("color", "flip"), "all").draw(rng(10), 5, SHAPE)
    assert set(still.kinds) == {-1}
    assert not torch.equal(still.apply(inputs(5)), inputs(5))


def test_one_kind_is_shared_and_the_numbers_are_not() -> None:
    kinds = set()
    for seed in range(40):
        drawn = Augment(OPERATIONS, "one").draw(rng(seed), 8, SHAPE, one_kind=True)
        (name,) = set(names_of(drawn))
        kinds.add(name)
        assert len(drawn.color[:, 0].unique()) == 8
    assert kinds == set(OPERATIONS)
    assert len(set(Augment(OPERATIONS, "all").draw(rng(0), 50, SHAPE, one_kind=True).kinds)) == 1


def test_records_are_a_plain_function_of_the_stream() -> None:
    one, two = (Augment(OPERATIONS, "one").draw(rng(11), 7, SHAPE) for _ in range(2))
    assert same(one, two)
    assert same(one.to(torch.device("cpu")), one)
    ends = set()
    for operations in ((), ("crop",), OPERATIONS):
        for compose in ("one", "all"):
            stream = rng(12)
            Augment(operations, compose).draw(stream, 3, SHAPE, one_kind=True)
            ends.add(stream.random())
    assert len(ends) == 1  # as many numbers, whatever was listed and came of them
    few, many = (Augment(OPERATIONS, "one").draw(rng(13), count, SHAPE) for count in (4, 9))
    assert same(many.of(torch.arange(4)), few)


def test_names_that_are_no_operation_are_refused() -> None:
    with pytest.raises(DatastillError, match="there is no operation 'colour'; did you mean 'color'"):
        Augment(("colour",), "one")
