"""One batch's augmentation as data: crops, flips and mixing against a loop over single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datastill.networks import Space
from datastill.recipe import TrainRecipe
from datastill.runtime.seeds import rng
from datastill.training.views import View, to_unit
from reference import augment

PLAIN = TrainRecipe(crop=0, flip=False)
MIXING = st.sampled_from(["mixup", "cutmix"])


def pictures(batch: int, channels: int = 3, height: int = 6, width: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.rand((batch, channels, height, width), generator=torch.Generator().manual_seed(seed))


@given(
    seed=st.integers(0, 10**6), pad=st.integers(0, 5), flip=st.booleans(), channels=st.sampled_from([1, 3]),
    dtype=st.sampled_from([torch.uint8, torch.float32]), last=st.booleans(),
)  # fmt: skip
def test_crops_and_flips_are_those_of_single_images(
    seed: int, pad: int, flip: bool, channels: int, dtype: torch.dtype, last: bool
) -> None:
    x = pictures(5, channels)
    x = (x * 255).to(dtype) if dtype == torch.uint8 else x
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    before = x.clone()
    view = View.draw(rng(seed), 5, (channels, 6, 7), TrainRecipe(crop=pad, flip=flip))
    found = view.apply(x)
    shifts = torch.zeros(5, 2).int() if view.shift is None else view.shift
    flips = torch.zeros(5).bool() if view.flip is None else view.flip
    wanted = [
        augment.cropped(image, pad, shift, mirrored)
        for image, shift, mirrored in zip(x.numpy(), shifts.tolist(), flips.tolist(), strict=True)
    ]
    assert found.dtype == dtype
    assert np.array_equal(found.numpy(), np.stack(wanted))
    assert torch.equal(x, before)


def test_borders_that_come_into_sight_are_black() -> None:
    x = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    corner = View(pad=2, shift=torch.tensor([[0, 4]])).apply(x)
    assert corner[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [200, 200, 0, 0], [200, 200, 0, 0]]


def test_shifts_cover_zero_to_twice_the_padding_on_both_axes() -> None:
    view = View.draw(rng(0), 500, (3, 8, 8), TrainRecipe(crop=4))
    assert view.pad == 4
    assert view.shift is not None
    for axis in (0, 1):
        values, counts = view.shift[:, axis].unique(return_counts=True)
        assert values.tolist() == list(range(9))
        assert counts.min() > 25
    assert not torch.equal(view.shift[:, 0], view.shift[:, 1])


def test_half_of_the_images_are_mirrored() -> None:
    view = View.draw(rng(0), 4000, (3, 8, 8), TrainRecipe())
    assert view.flip is not None
    assert abs(view.flip.double().mean() - 0.5) < 0.03


def test_nothing_drawn_changes_nothing() -> None:
    x, targets = pictures(4), torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    view = View.draw(rng(0), 4, (3, 6, 7), PLAIN)
    assert view == View()
    assert view.apply(x) is x
    assert view.mix(x) is x
    assert view.blend(targets) is targets


def test_the_same_draw_is_applied_again_the_same() -> None:
    recipe = TrainRecipe(crop=2, mix="cutmix")
    one, two = (View.draw(rng(3, "view"), 6, (3, 6, 7), recipe) for _ in range(2))
    x = pictures(6)
    assert torch.equal(one.mix(one.apply(x)), two.mix(two.apply(x)))
    moved = one.to(torch.device("cpu"))
    assert torch.equal(moved.mix(moved.apply(x)), one.mix(one.apply(x)))
    assert (moved.lam, moved.box, moved.pad) == (one.lam, one.box, one.pad)
    other = View.draw(rng(4, "view"), 6, (3, 6, 7), recipe)
    assert not torch.equal(other.apply(x), one.apply(x))


@pytest.mark.parametrize(
    "own", [TrainRecipe(crop=3, mix="cutmix", cutout=2), TrainRecipe(resized_crop=0.5, mix="mixup")]
)
def test_crops_and_flips_of_another_view_take_the_place_of_its_own(own: TrainRecipe) -> None:
    x, laid, rows = pictures(4), torch.zeros(6, 3, 6, 7), torch.tensor([5, 0, 3, 4])
    view = View.draw(rng(0), 4, (3, 6, 7), own)
    other = View.draw(rng(1), 6, (3, 6, 7), TrainRecipe(crop=1))
    laid[rows] = x
    moved = View(hole=view.hole, side=view.side).apply(other.apply(laid)[rows])
    made = view.framed(other, rows)
    assert torch.equal(made.mix(made.apply(x)), view.mix(moved))
    still = view.framed(View(), rows)
    assert (still.pad, still.shift, still.window, still.flip) == (0, None, None, None)


@given(seed=st.integers(0, 10**6))
def test_mixup_is_the_weighted_sum_of_single_images(seed: int) -> None:
    x, targets = pictures(5), torch.randn(5, 3, generator=torch.Generator().manual_seed(2)) * 10
    view = View.draw(rng(seed), 5, (3, 6, 7), TrainRecipe(crop=0, flip=False, mix="mixup"))
    assert view.partner is not None
    partner = view.partner.tolist()
    assert sorted(partner) == list(range(5))
    assert 0.0 <= view.lam <= 1.0
    np.testing.assert_allclose(view.mix(x).numpy(), augment.mixed(x.numpy(), view.lam, partner), atol=1e-6)
    np.testing.assert_allclose(
        view.blend(targets).numpy(), augment.mixed(targets.numpy(), view.lam, partner), atol=1e-5
    )


def test_mixing_shares_follow_the_beta_distribution() -> None:
    recipe = TrainRecipe(crop=0, flip=False, mix="mixup", mix_alpha=0.8)
    shares = np.array([View.draw(rng(i), 2, (3, 6, 7), recipe).lam for i in range(3000)])
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.005


def test_a_share_of_one_leaves_images_and_targets_untouched() -> None:
    x, targets = pictures(8), torch.randn(8, 3, generator=torch.Generator().manual_seed(2)) * 1e3
    partner = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
    mixup = View(lam=1.0, partner=partner)
    assert torch.equal(mixup.mix(x), x)
    assert torch.equal(mixup.blend(targets), targets)
    none = View(lam=0.0, partner=partner)
    assert torch.equal(none.mix(x), x[partner])
    assert torch.equal(none.blend(targets), targets[partner])
    empty = View(lam=1.0, partner=partner, box=(3, 3, 2, 2))
    assert torch.equal(empty.mix(x), x)
    assert torch.equal(empty.blend(targets), targets)


@given(seed=st.integers(0, 10**6))
def test_swapping_share_and_partner_changes_nothing(seed: int) -> None:
    x, targets = pictures(6), torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    view = View.draw(rng(seed), 6, (3, 6, 7), TrainRecipe(crop=0, flip=False, mix="mixup"))
    assert view.partner is not None
    swapped = View(lam=1.0 - view.lam, partner=view.partner.argsort())
    torch.testing.assert_close(swapped.mix(x[view.partner]), view.mix(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(swapped.blend(targets[view.partner]), view.blend(targets), rtol=0, atol=1e-6)


@given(seed=st.integers(0, 10**6), mix=MIXING)
def test_mixing_pixels_is_mixing_after_normalisation(seed: int, mix: str) -> None:
    x = pictures(5)
    space = Space((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    view = View.draw(rng(seed), 5, (3, 6, 7), TrainRecipe(crop=0, flip=False, mix=mix))  # type: ignore[arg-type]
    torch.testing.assert_close(space.into(view.mix(x)), view.mix(space.into(x)), rtol=0, atol=3e-6)


@given(seed=st.integers(0, 10**6), height=st.integers(1, 12), width=st.integers(1, 12))
def test_the_share_of_a_cutmix_is_the_area_that_is_kept(seed: int, height: int, width: int) -> None:
    view = View.draw(rng(seed), 4, (3, height, width), TrainRecipe(crop=0, flip=False, mix="cutmix"))
    assert view.partner is not None
    x = torch.arange(4.0)[:, None, None, None].expand(4, 3, height, width)
    mixed = view.mix(x)
    for i, partner in enumerate(view.partner.tolist()):
        kept = (mixed[i] == i).double().mean().item()
        assert set(mixed[i].unique().tolist()) <= {float(i), float(partner)}
        if partner != i:
            assert kept == pytest.approx(view.lam, abs=1e-12)
    weights = view.blend(torch.eye(4))
    wanted = view.lam * torch.eye(4) + (1 - view.lam) * torch.eye(4)[view.partner]
    torch.testing.assert_close(weights, wanted, rtol=0, atol=1e-6)
    assert view.box is not None
    top, bottom, left, right = view.box
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width


def test_cutmix_boxes_have_about_the_share_that_was_drawn_and_lie_everywhere() -> None:
    recipe = TrainRecipe(crop=0, flip=False, mix="cutmix", mix_alpha=1.0)
    views = [View.draw(rng(i), 2, (3, 32, 32), recipe) for i in range(400)]
    covered = np.zeros((32, 32), dtype=int)
    for view in views:
        assert view.box is not None
        top, bottom, left, right = view.box
        covered[top:bottom, left:right] += 1
    assert covered.min() > 20
    assert 0.5 < float(np.mean([view.lam for view in views])) < 0.7  # more than half, since borders cut boxes


def test_pixels_come_between_zero_and_one() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(grey)
    assert unit.dtype == torch.float32
    assert torch.equal(unit, torch.arange(256).float() / 255)
    assert torch.equal((unit * 255).round().to(torch.uint8), grey)
    floats = pictures(1)
    assert to_unit(floats) is floats
    assert grey[-1] == 255
