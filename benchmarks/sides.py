"""The two sides of every phase, ready to run a round again and again, and the numbers that must agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.cases import CROPS, MEAN, STD, Case
from datastill.draft import Draft
from datastill.fields import Content, Context, Items, Pictures
from datastill.match.statistics import Statistics
from datastill.networks.taps import tap
from datastill.recipe import DatasetInfo, Recipe
from datastill.runtime.device import Device, open_device
from datastill.store.compensated import Compensated
from datastill.store.crops import Crops
from datastill.training.loop import Learner, train
from datastill.training.losses import one_hot
from datastill.training.predict import predict
from datastill.training.supply import Data, supply

ROUNDS = 1000  # the length of recovery's schedule; what is run is its beginning
MATCH = Statistics(rounds=ROUNDS)
Numbers = dict[str, Tensor]


@dataclass(frozen=True)
class Ready:
    """`again` runs a round; `first` runs the first one and returns its numbers: "outcome", the losses of the first step
    or of every crop, or the logits, "gradient", the first step's up to a factor, and "later", the losses of the steps
    that follow."""

    first: Callable[[], Numbers]
    again: Callable[[], object]


def ready(case: Case) -> Ready:
    """Return a side that is ready to run; everything of the reference stays out of the product's process."""
    if case.side == "product":
        device = open_device("cpu", "bf16" if case.precision == "bf16" else "float32")
        makers = {"recovery": _product_recovery, "labelling": _product_labelling, "scoring": _product_scoring}
        return makers.get(case.phase, _product_training)(case, device)
    makers_plain = {"recovery": _plain_recovery, "labelling": _plain_labelling, "scoring": _plain_scoring}
    return makers_plain.get(case.phase, _plain_training)(case)


def _trained(losses: Iterator[Tensor], optimiser: torch.optim.Optimizer, steps: int) -> Ready:
    """A round is `steps` losses; after the first step the momentum is a multiple of the gradient."""

    def first() -> Numbers:
        outcome = next(losses)
        states = [optimiser.state[p] for group in optimiser.param_groups for p in group["params"]]
        momenta = [next(state[key] for key in ("momentum_buffer", "exp_avg") if key in state) for state in states]
        gradient = torch.cat([m.flatten() for m in momenta])
        later = [next(losses) for _ in range(steps - 1)]
        return {"outcome": outcome, "gradient": gradient} | ({"later": torch.stack(later)} if later else {})

    return Ready(first, lambda: [next(losses) for _ in range(steps)])


def _product_training(case: Case, device: Device) -> Ready:
    recipe, labels, work = case.recipe, case.labels(), case.work
    if case.phase == "teacher":
        data = Data(case.pixels(), labels, one_hot(labels, case.sizes.classes), "classes")
    else:
        data = Data(case.pixels(), labels, case.logits(), "logits")
    learner = Learner(case.build(), recipe, work, case.seed, device)
    steps = train(learner, supply(data.to(device.torch), work, recipe, case.seed))
    return _trained((step.loss for step in steps), learner.optimiser, case.sizes.steps)


def _plain_training(case: Case) -> Ready:
    from benchmarks import plain

    network = case.build()
    optimiser = plain.make_optimiser(case, network)
    losses = plain.train(case, network.body, optimiser, plain.batches(case))
    return _trained(losses, optimiser, case.sizes.steps)


def _product_recovery(case: Case, device: Device) -> Ready:
    sizes = case.sizes
    info = DatasetInfo("benchmark", sizes.classes, (3, sizes.pixels, sizes.pixels), case.items, MEAN, STD)
    labels, parts = case.labels(), torch.arange(sizes.parts).repeat_interleave(sizes.classes)
    items = Items.of(cls=labels, set=parts, maker=torch.zeros_like(parts), unit=parts, picture=torch.arange(len(parts)))
    arrays = {
        "compensators": torch.zeros(sizes.parts, *info.shape, dtype=case.dtype),
        "std": torch.tensor(STD).view(1, 3, 1, 1),
    }
    content = Content(items, Pictures(case.pixels(), labels, ()), arrays, ("compensators",))
    tapped = tap(case.build(), torch.zeros(1, *info.shape))
    nothing: Any = None  # a round asks its context for seed, device and taps alone
    ctx = Context(cast(Recipe, SimpleNamespace(seed=case.seed)), nothing, nothing, device, nothing, nothing)
    ctx.memo["tapped", case.network] = tapped
    draft = Draft(
        Compensated(), content, MATCH.parts(items, (case.network,)), MATCH.optimise(),
        rounds=ROUNDS, classes=sizes.classes, device=device.torch,
    )  # fmt: skip

    def step() -> Tensor:
        with device.autocast():
            metrics = MATCH.round(draft, ctx)
        draft.round += 1
        return MATCH.ce * metrics["cross-entropy"] + MATCH.alpha * metrics["statistics"]

    def first() -> Numbers:
        numbers = {"outcome": step(), "gradient": draft.arrays()["optimiser.compensators.0.exp_avg"].clone()}
        later = [step() for _ in range(sizes.steps - 1)]
        return numbers | ({"later": torch.stack(later)} if later else {})

    return Ready(first, lambda: [step() for _ in range(sizes.steps)])


def _plain_recovery(case: Case) -> Ready:
    from benchmarks import plain

    body = case.build().body.eval()
    parts = [plain.Recovery(body, case, part, MATCH.lr, ROUNDS, MATCH.jitter) for part in range(case.sizes.parts)]

    def step() -> Tensor:
        return torch.stack([part.step() for part in parts])

    def first() -> Numbers:
        numbers = {"outcome": step(), "gradient": torch.cat([part.adam.state[part.u]["exp_avg"] for part in parts])}
        later = [step() for _ in range(case.sizes.steps - 1)]
        return numbers | ({"later": torch.stack(later)} if later else {})

    return Ready(first, lambda: [step() for _ in range(case.sizes.steps)])


def _product_labelling(case: Case, device: Device) -> Ready:
    network, images = case.build(), case.pixels()
    network.to(memory_format=torch.channels_last)  # as the bank hands networks out

    def label() -> Tensor:
        return predict(network, images, device=device.torch)

    return Ready(lambda: {"outcome": label()}, label)


def _plain_labelling(case: Case) -> Ready:
    from benchmarks import plain

    network, images = case.build(), case.images()

    def label() -> Tensor:
        return plain.label(network, images, case.dtype)

    return Ready(lambda: {"outcome": label()}, label)


def _product_scoring(case: Case, device: Device) -> Ready:
    network, images, windows = case.build(), case.pixels(), case.windows()
    network.to(memory_format=torch.channels_last)  # as the bank hands networks out
    nothing: Any = None  # scoring asks its context for the shape of pictures and the device alone
    info = DatasetInfo("benchmark", case.sizes.classes, (3, case.sizes.pixels, case.sizes.pixels), 0, MEAN, STD)
    ctx = Context(nothing, cast(Any, SimpleNamespace(info=info)), nothing, device, nothing, nothing)
    store = Crops(crops=CROPS)

    def score() -> Tensor:
        return store.losses(images, windows, 0, network, ctx)

    return Ready(lambda: {"outcome": score()}, score)


def _plain_scoring(case: Case) -> Ready:
    from benchmarks import plain

    network, images, windows = case.build(), case.images(), case.windows()

    def score() -> Tensor:
        return plain.score(network, images, windows, case)

    return Ready(lambda: {"outcome": score()}, score)
