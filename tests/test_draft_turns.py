"""One step of all classes for a loop over classes that share one momentum (IDC, arXiv 2205.14959)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from datastill.draft import Draft
from datastill.fields import Optimise, Part
from datastill.recipe import choice
from datastill.sources import Dataset
from reference import tiny

CLASSES, EACH, STEPS, LR = 10, 2, 50, 0.05
Gradient = Callable[[Tensor, int], Tensor]


@dataclass
class Told:
    """A trajectory: what each class holds when its gradient is taken, [STEPS, K * n, ...], and all of it at the end."""

    met: Tensor
    last: Tensor


def ten() -> Dataset:
    return tiny.dataset(classes=CLASSES, per_class=4, shape=(1, 8, 8))


def begun() -> Tensor:
    return torch.rand(CLASSES * EACH, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def pull_of(seed: int = 1) -> Gradient:
    """Return a gradient that depends on the images and on what step it is."""
    ahead = torch.randn(STEPS, CLASSES * EACH, 1, 8, 8, dtype=torch.float64,
                        generator=torch.Generator().manual_seed(seed))  # fmt: skip

    def gradient(x: Tensor, step: int) -> Tensor:
        return x + 0.1 * torch.sin(3.0 * x) + 0.3 * ahead[step]  # it pulls together: no difference grows by itself

    return gradient


def in_turn(gradient: Gradient, momentum: float, steps: int = STEPS) -> Told:
    """The released loop: one optimiser over all images, and one step of it after each class."""
    images = begun().requires_grad_()
    optimiser = torch.optim.SGD([images], lr=LR, momentum=momentum)
    met = torch.zeros(steps, *images.shape, dtype=torch.float64)
    for step in range(steps):
        for k in range(CLASSES):
            mine = slice(k * EACH, (k + 1) * EACH)
            met[step, mine] = images.detach()[mine]
            images.grad = torch.zeros_like(images)
            images.grad[mine] = gradient(images.detach(), step)[mine]
            optimiser.step()
    return Told(met, images.detach())


def drafted(turns: int, momentum: float, lr: float = LR) -> Draft:
    ctx = tiny.context(ten(), given={}, store=choice("tiles", factor=1), match=choice("none"), ipc=EACH)
    content = ctx.fields.store.begin(ctx)
    content.arrays["pixels"] = begun()
    plan = {"pixels": Optimise(lr, momentum=momentum, turns=turns)}
    parts = [Part(0, torch.arange(CLASSES * EACH), "")]
    return Draft(ctx.fields.store, content, parts, plan, rounds=STEPS, classes=CLASSES, device=torch.device("cpu"))


def at_once(gradient: Gradient, draft: Draft, steps: int = STEPS) -> Told:
    met = []
    for step in range(steps):
        x, _ = draft.batch(draft.rows)
        met.append(x.detach().clone())
        draft.pull(draft.rows, gradient(x.detach(), step))
        draft.step()
    return Told(torch.stack(met), draft.arrays()["learned.pixels"].clone())


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.0])
def test_every_class_meets_its_gradient_where_the_loop_over_classes_does(momentum: float) -> None:
    gradient = pull_of()
    loop, made = in_turn(gradient, momentum), at_once(gradient, drafted(CLASSES, momentum))
    assert (loop.met - made.met).abs().max() < 2e-15
    assert (loop.met[-1] - loop.met[0]).abs().max() > 0.1  # it went somewhere


def test_right_after_a_step_the_first_class_agrees_and_the_last_one_lacks_half_of_its_way() -> None:
    gradient = pull_of()
    loop, made = in_turn(gradient, 0.5, 1), at_once(gradient, drafted(CLASSES, 0.5), 1)
    for k in range(CLASSES):
        mine = slice(k * EACH, (k + 1) * EACH)
        way, whole = begun()[mine] - loop.last[mine], begun()[mine] - made.last[mine]
        # It coasts C - 1 - k of the C - 1 steps that come before its next gradient.
        share = (1 - 0.5 ** (CLASSES - k)) / (1 - 0.5**CLASSES)
        torch.testing.assert_close(way, share * whole, rtol=1e-12, atol=1e-15)
    assert torch.allclose(loop.last[:EACH], made.last[:EACH], rtol=0, atol=1e-15)
    torch.testing.assert_close(
        begun()[-EACH:] - loop.last[-EACH:], LR * gradient(begun(), 0)[-EACH:], rtol=1e-12, atol=1e-15
    )


def test_plain_steps_go_nearly_the_same_way_and_not_the_same() -> None:
    gradient = pull_of()
    loop = in_turn(gradient, 0.5)
    way = (loop.met - begun()).abs().max()
    for plain, low, high in ((drafted(1, 0.5), 0.01, 0.3), (drafted(1, 0.0, 2 * LR), 1e-5, 0.01)):
        far = (loop.met - at_once(gradient, plain).met).abs().max() / way
        assert low < far < high


def test_one_class_alone_has_plain_momentum() -> None:
    gradient = pull_of()
    images = begun().requires_grad_()
    optimiser = torch.optim.SGD([images], lr=LR, momentum=0.5)
    for step in range(STEPS):
        images.grad = gradient(images.detach(), step)
        optimiser.step()
    assert torch.equal(at_once(gradient, drafted(1, 0.5)).last, images.detach())


def test_a_draft_that_coasts_goes_on_from_its_arrays_bit_for_bit() -> None:
    gradient = pull_of()
    unbroken = at_once(gradient, drafted(CLASSES, 0.5)).last
    early, late = drafted(CLASSES, 0.5), drafted(CLASSES, 0.5)
    at_once(gradient, early, 20)
    late.load({name: value.clone() for name, value in early.arrays().items()})
    rest = at_once(lambda x, step: gradient(x, step + 20), late, STEPS - 20)
    assert torch.equal(rest.last, unbroken)


def test_the_end_of_a_round_cuts_and_a_step_does_not() -> None:
    draft = drafted(CLASSES, 0.5)
    at_once(lambda x, _: torch.full_like(x, 30.0), draft, 2)
    assert draft.arrays()["learned.pixels"].max() < 0
    draft.end_round()
    assert (draft.arrays()["learned.pixels"] == 0).all()
    assert draft.round == 1
