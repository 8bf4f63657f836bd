"""One loop that runs a recipe: prepare networks, open the store, run the match's rounds, seal, label, write."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datastill.artifact import MANIFEST, DistilledDataset
from datastill.draft import Draft
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Labels, Part, Real, resolve
from datastill.recipe import Recipe
from datastill.runtime.cache import locked
from datastill.runtime.device import Device
from datastill.runtime.files import digest_of, load_arrays, read_json, save_arrays, write_json
from datastill.runtime.progress import Phase, Reporter
from datastill.runtime.versions import versions
from datastill.settings import chosen
from datastill.sources import Dataset, encoded_train_bytes
from datastill.training.bank import CHECKPOINT_SECONDS, Bank

WORK, STAMP = ".work", "run.json"
RUN = "run.json"  # beside the artifact, no part of it: times and paths differ from run to run
# Values per forward pass of grouped parts: enough to fill the device, few enough to stay in its caches.
GROUP_VALUES = {"cpu": 16 * 3 * 32 * 32, "cuda": 2048 * 3 * 32 * 32}


def make_context(
    dataset: Dataset, recipe: Recipe, device: Device, reporter: Reporter, bank: Bank | None = None
) -> Context:
    """Check a recipe against a data set and return what its choices may ask for.

    Raises: DatastillError with every mistake of the recipe.
    """
    fields = resolve(recipe, dataset.info)
    real = Real(dataset, recipe.validation, recipe.seed)
    return Context(recipe, real, bank or Bank(device, reporter), device, reporter, fields)


def distil(
    dataset: Dataset,
    recipe: Recipe,
    *,
    device: Device,
    reporter: Reporter,
    out: Path | None = None,
    resume: bool = False,
    command: str = "",
    source: Mapping[str, Any] | None = None,
    kept: Path | None = None,
) -> DistilledDataset:
    """Run a recipe on a data set.

    Args:
        dataset: the real set; only its training rows are looked at.
        recipe: what to do.
        device: where.
        reporter: told about phases.
        out: the artifact's folder; None keeps the set in memory.
        resume: go on with an unfinished run in `out`, or return the finished one.
        command: recorded in the manifest.
        source: how to load the data set again ("asked", and the options of `sources.load`), recorded likewise.
        kept: folder of learned arrays by what they were learned from; recipes that differ in labels alone share them.

    Raises: DatastillError when `out` is not empty (without resume) or holds another recipe's run.
    """
    ctx = make_context(dataset, recipe, device, reporter)
    before = dict(reporter.seconds)  # of what the same reporter was told earlier
    if out is None:
        return _realise(ctx, dataset, None, command, source, kept)
    if out.exists() and not out.is_dir():
        raise DatastillError(f"'{out}' is a file; choose another --out.")
    finished = False
    try:
        with locked(out / WORK / "run"):
            work = _Work.open(out, ctx, resume)
            if work.finished:
                made = DistilledDataset.load(out)
            else:
                made = _realise(ctx, dataset, work, command, source, kept)
                made.save(out)
                seconds = {
                    name: took - before.get(name, 0.0)
                    for name, took in reporter.seconds.items()
                    if took != before.get(name)
                }
                told = {"seconds": seconds, "device": device.describe(), "origin": dataset.origin}
                write_json(out / RUN, told)
            finished = True
    finally:
        if finished or not (out / WORK / STAMP).exists():  # done, or refused before anything was begun
            shutil.rmtree(out / WORK, ignore_errors=True)
    return made


def _realise(
    ctx: Context,
    dataset: Dataset,
    work: _Work | None,
    command: str,
    source: Mapping[str, Any] | None,
    kept: Path | None,
) -> DistilledDataset:
    content = build_content(ctx, work, kept)
    sealed = ctx.fields.store.seal(content)
    counts = ctx.fields.store.facts(content, ctx) | ctx.fields.match.facts(ctx, content, sealed)
    counts |= ctx.memo.get("counted", {})
    facts = {
        "counts": counts,
        "source": dict(source or {"asked": dataset.origin}) | {
            "name": dataset.name, "fingerprint": dataset.fingerprint, "notes": list(dataset.notes),
            "skipped": list(dataset.bad),
        },
        "real_bytes": {"webp": encoded_train_bytes(dataset), "raw": dataset.raw_train_bytes},
        "versions": versions(),
        "device": ctx.device.describe(),
        "command": command,
    }  # fmt: skip
    return label_content(ctx, sealed, facts)


def label_content(ctx: Context, sealed: Content, facts: dict[str, Any]) -> DistilledDataset:
    """Label a sealed content and return the distilled set."""
    labels: Labels = ctx.fields.label.make(ctx.fields.store.expand(sealed), ctx, sealed)
    counts = {k: v for k, v in facts.get("counts", {}).items() if k not in ("label_error", "labels")}
    measured = {"label_error": labels.facts, "labels": labels.tells}
    facts = facts | {"counts": counts | {name: found for name, found in measured.items() if found}}
    networks = {name: ctx.network(name) for name in labels.teachers}
    return DistilledDataset(ctx.recipe, ctx.info, ctx.real.classes, sealed, labels, facts, networks)


def build_content(ctx: Context, work: _Work | None = None, kept: Path | None = None) -> Content:
    """Open the store, and where the match has rounds prepare the networks and run them; returns the open content.

    With `kept`, what was learned under the same recipe but for its labels is taken from there, or left there.
    """
    (stage,) = ctx.fields.stages.plan(ctx.recipe)
    ctx.stage = stage.index
    content = ctx.fields.store.begin(ctx)  # first: it refuses a class with too few images, which no training repairs
    path = kept / f"{_learned_key(ctx)}.safetensors" if kept and content.learned else None
    match = ctx.fields.match
    told = f"distil ({match.name})"
    if path and path.exists():
        content.arrays |= load_arrays(path)
        # What it took is part of what is told of a set, whoever it was learned for.
        earlier = read_json(path.with_suffix(".json"))
        ctx.reporter.seconds[told] = ctx.reporter.seconds.get(told, 0.0) + earlier["seconds"]
        ctx.memo["counted"] = earlier.get("counted", {})
        return content
    groups = _groups(match.parts(content.items, ctx.makers), ctx)
    if not groups:
        return content
    for name in match.trained(ctx.makers):
        ctx.network(name)
    match.prepare(ctx)
    total = sum(len(g) for g in groups) * match.total_rounds
    with ctx.reporter.phase(told, total) as phase:
        for number, parts in enumerate(groups):
            draft = Draft(
                ctx.fields.store, content, parts, match.optimise(),
                rounds=match.total_rounds, classes=ctx.info.classes, device=ctx.device.torch,
            )  # fmt: skip
            _run_group(ctx, draft, number, phase, work)
            draft.commit()
            counted = match.counted(draft) | ctx.fields.select.counted(draft.state)
            ctx.memo["counted"] = ctx.memo.get("counted", {}) | counted
    if path:
        write_json(path.with_suffix(".json"), {"seconds": phase.seconds, "counted": ctx.memo["counted"]})
        save_arrays(path, {name: content.arrays[name] for name in content.learned})
    return content


def _learned_key(ctx: Context) -> str:
    """Return the hash of everything that decides what a match makes of a store."""
    deciding = ("ipc", "seed", "validation", "select", "store", "match", "stages")
    made_from = [chosen(getattr(ctx.recipe, name)) for name in (*deciding, "networks")]
    versions_ = [choice.version for choice in (ctx.fields.select, ctx.fields.store, ctx.fields.match)]
    return digest_of([made_from, list(ctx.makers), versions_, ctx.real.key, ctx.device.precision])


def _run_group(ctx: Context, draft: Draft, number: int, phase: Phase, work: _Work | None) -> None:
    """Run the rounds of one group, from where an earlier run left it."""
    path = work.folder / f"group-{number:05d}.safetensors" if work else None
    saved = load_arrays(path) if path and path.exists() else {}
    if int(saved.get("round", 0)) < draft.rounds:
        ctx.fields.match.begin(draft, ctx)  # before an earlier run's rounds are loaded: the draft stands at its start
    if saved:
        draft.load(saved)
        phase.advance(draft.round * len(draft.parts))
    last = time.monotonic()
    while draft.round < draft.rounds:
        with ctx.device.autocast():
            ctx.fields.match.round(draft, ctx)
        draft.end_round()
        phase.advance(len(draft.parts))
        if path and (draft.round == draft.rounds or time.monotonic() - last > CHECKPOINT_SECONDS):
            save_arrays(path, draft.arrays())
            last = time.monotonic()


def _groups(parts: list[Part], ctx: Context) -> list[list[Part]]:
    """Put neighbours of one size that meet the same network together, as many as the device bears in one pass."""
    limit = GROUP_VALUES[ctx.device.torch.type]
    size = int(np.prod(ctx.info.shape))
    groups: list[list[Part]] = []
    for part in parts:
        last = groups[-1] if groups else []
        fits = (len(last) + 1) * len(part.rows) * size <= limit
        if last and fits and _pass_together(last[0], part):
            last.append(part)
        else:
            groups.append([part])
    return groups


def _pass_together(one: Part, other: Part) -> bool:
    same = (one.network, len(one.rows)) == (other.network, len(other.rows))
    return same and not (one.alone or other.alone)


@dataclass(frozen=True)
class _Work:
    """The folder of an unfinished run, inside the artifact's."""

    folder: Path
    finished: bool

    @classmethod
    def open(cls, out: Path, ctx: Context, resume: bool) -> _Work:
        folder, stamp = out / WORK, out / WORK / STAMP
        key = digest_of([chosen(ctx.recipe), list(ctx.makers), ctx.real.fingerprint])
        if (out / MANIFEST).exists():
            if resume and digest_of(_made_from(out)) == key:
                return cls(folder, True)
            raise DatastillError(f"'{out}' holds a finished set; choose another --out, or remove it first.")
        started = stamp.exists()
        if started and not resume:
            raise DatastillError(f"'{out}' holds an unfinished run; add --resume to go on, or choose another --out.")
        made_by = {"key": key, "precision": ctx.device.precision}
        if started and read_json(stamp) != made_by:
            raise DatastillError(
                f"'{out}' holds an unfinished run of another recipe, data set or precision; repeat its command with "
                "--resume, or choose another --out."
            )
        strangers = sorted(p.name for p in out.iterdir() if p.name not in (WORK,)) if not started else []
        if strangers:
            raise DatastillError(f"'{out}' is not empty ('{strangers[0]}' is there); choose another --out.")
        for part in out.rglob(".*.part"):  # of files that were being written when an earlier run was killed
            part.unlink()
        write_json(stamp, made_by)
        return cls(folder, False)


def _made_from(out: Path) -> list[Any]:
    manifest = read_json(out / MANIFEST)
    try:
        recipe = Recipe.from_plain(manifest["recipe"])
        return [chosen(recipe), list(recipe.networks), manifest["source"]["fingerprint"]]
    except (KeyError, TypeError, DatastillError):  # no manifest of ours
        return []
