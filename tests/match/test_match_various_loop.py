"""G-VBSM's matching as a whole: against a plain loop, cut off and resumed, and what it achieves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datastill import engine
from datastill.recipe import choice
from datastill.runtime.files import load_arrays, save_arrays
from datastill.runtime.progress import Phase, Reporter
from datastill.runtime.seeds import rng
from reference import gvbsm, tiny
from reference.backbones import SMALL, drafted, opened, run, various


def test_real_targets_are_measured_before_the_rounds_and_never_twice(tmp_path: Path) -> None:
    ctx, _ = opened()
    names: list[str] = []
    phase = ctx.reporter.phase

    def noted(name: str, *rest: Any) -> Any:
        names.append(name)
        return phase(name, *rest)

    ctx.reporter.phase = noted  # type: ignore[method-assign,assignment]  # of this one reporter
    engine.build_content(ctx)
    measure = [n for n in names if n.startswith("measure")]
    assert names == [*measure, "distil (various)"]
    names.clear()
    ctx.memo.clear()
    engine.build_content(ctx)
    assert names == ["distil (various)"]


@pytest.mark.parametrize("changes", [{}, {"bias_correction": True, "densify_scale": "mean", "drop": 0.0}])
def test_the_engine_agrees_with_the_plain_loop(changes: dict[str, Any]) -> None:
    rounds = 12
    settings = {"rounds": rounds, "lr": 0.02, "alpha": 0.05} | changes
    ctx, _ = opened(settings, ipc=4)
    start = ctx.fields.store.begin(ctx)
    content, match = engine.build_content(ctx), various(ctx)
    networks = [ctx.network(name) for name in ctx.makers]
    targets = [match._target(ctx, name) for name in ctx.makers]
    wanted = [[tuple(v.double() for v in at or ()) for at in target.wanted] for target in targets]
    for part in match.parts(content.items, ctx.makers):
        kept = [
            torch.from_numpy(rng(0, 0, part.index, t, "drop").random(len(targets[t % 3].wanted)) >= match.drop)
            for t in range(rounds)
        ]
        plain = gvbsm.recover(
            networks, wanted, start.arrays["pixels"][part.rows], content.items.cls[part.rows],
            gvbsm.Settings(
                lr=0.02, alpha=0.05, bias_correction=match.bias_correction, scaled=match.densify_scale == "mean",
                shifts=[shift(part.index, t) for t in range(rounds)], kept=kept,
            ),
        )  # fmt: skip
        mine = content.arrays["pixels"][part.rows]
        assert float((mine - plain).abs().max()) < 2e-3
        assert float((mine - start.arrays["pixels"][part.rows]).abs().max()) > 0.05


def shift(part: int, round_: int) -> tuple[int, int]:
    down, right = np.asarray(rng(0, 0, part, round_, "view").integers(0, SMALL["jitter"] + 1, 2)).tolist()
    return down, right


def test_a_draft_goes_on_from_a_checkpoint_with_its_averages_bit_for_bit(tmp_path: Path) -> None:
    ctx, content = opened({"rounds": 8, "bias_correction": True, "drop": 0.3})
    parts = various(ctx).parts(content.items, ctx.makers)
    unbroken = drafted(ctx, content, parts)
    run(unbroken, ctx, 8)
    for at in (1, 4, 7):
        early, late = drafted(ctx, content, parts), drafted(ctx, content, parts)
        run(early, ctx, at)
        save_arrays(tmp_path / "draft.safetensors", early.arrays())
        late.load(load_arrays(tmp_path / "draft.safetensors"))
        run(late, ctx, 8 - at)
        mine, theirs = unbroken.arrays(), late.arrays()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    forgetful = drafted(ctx, content, parts)
    run(forgetful, ctx, 4)
    forgetful.state.clear()
    run(forgetful, ctx, 4)
    assert not torch.equal(forgetful.arrays()["learned.pixels"], unbroken.arrays()["learned.pixels"])


class Stop(Exception):
    """What interrupts a run."""


class Fragile(Reporter):
    """A reporter that stops a run after so many of the match's steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    @contextmanager
    def phase(self, name: str, total: int, done: int = 0) -> Iterator[Phase]:
        with super().phase(name, total, done) as phase:
            plain = phase.advance

            def advance(steps: int = 1) -> None:
                plain(steps)
                self.left -= name.startswith("distil")
                if not self.left:
                    raise Stop

            phase.advance = advance  # type: ignore[method-assign]  # of this one phase
            yield phase


@pytest.mark.parametrize("after", [3, 9])
def test_a_run_that_was_cut_off_within_a_part_goes_on_to_the_same_bytes(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", -1.0)  # after every round
    monkeypatch.setitem(engine.GROUP_VALUES, "cpu", 0)  # two parts, one after the other
    recipe = tiny.recipe(
        ipc=4, store=choice("synthetic", block=8, order="class-major"), match=choice("various", **SMALL)
    )

    def run(out: Path, reporter: Reporter, resume: bool = False) -> bytes:
        engine.distil(tiny.dataset(), recipe, device=tiny.device(), reporter=reporter, out=out, resume=resume)
        return (out / "images.parquet").read_bytes()

    unbroken = run(tmp_path / "whole", Reporter())
    with pytest.raises(Stop):
        run(tmp_path / "set", Fragile(after))
    assert run(tmp_path / "set", Reporter(), resume=True) == unbroken


def test_recovery_lowers_what_it_optimises_for_every_network() -> None:
    ctx, start = opened({"rounds": 60, "lr": 0.1, "alpha": 0.05, "jitter": 1})
    content = engine.build_content(ctx)
    store, match = ctx.fields.store, various(ctx)
    losses = match.facts(ctx, content, store.seal(content))["losses"]
    before = match.facts(ctx, start, store.seal(start))["losses"]
    for name in ctx.makers:
        assert losses[name]["open"]["cross-entropy"] < before[name]["open"]["cross-entropy"]
        assert losses[name]["open"]["statistics"] < 0.9 * before[name]["open"]["statistics"]
        assert losses[name]["rendered"]["statistics"] < 0.9 * before[name]["open"]["statistics"]
