"""What lies in docs/results/: rows in groups that share a protocol, the order of pages, what waits, and speeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datastill.errors import DatastillError, suggestion
from datastill.measure.ledger import SPEED, Entry, read_rows, settled
from datastill.measure.rows import label_kind, paired
from datastill.report import words
from datastill.runtime.files import digest_of, read_json

WAITS = {"what", "command", "method", "source", "ipc", "student"}


@dataclass(frozen=True)
class Group:
    """Rows that may stand in one table: one source, one ipc, one student under one protocol.

    name: readable, with eight digits of the digest of the source and of the student's recipe. A frontier has ipc None.
    """

    name: str
    source: str
    ipc: int | None
    student: str
    steps: int
    batch: int
    split: str
    entries: tuple[Entry, ...]

    @property
    def runs(self) -> list[tuple[Mapping[str, Any], list[Entry]]]:
        """The runs that its rows came from, with their rows; the one with the best networks first."""
        found: dict[str, tuple[Mapping[str, Any], list[Entry]]] = {}
        for entry in self.entries:
            found.setdefault(digest_of(entry.run), (entry.run, []))[1].append(entry)
        return sorted(found.values(), key=lambda pair: -max(e.row["teacher_top1"] or 0.0 for e in pair[1]))

    @property
    def blocks(self) -> list[list[Entry]]:
        """Rows that one set of tables can hold: runs with the same networks or none, until two rows have one name.

        The same students on the same set are one row, whichever methods it stood beside.
        """
        blocks: list[tuple[set[str], dict[tuple[str, str], Entry]]] = []
        for run, mine in self.runs:
            networks, named = set(run["teachers"]), {_named(entry): entry for entry in mine}
            for others, block in blocks:
                shared = named.keys() & block.keys()
                alike = networks == others or not networks
                if alike and all(_measured(named[n]) == _measured(block[n]) for n in shared):
                    block |= {name: entry for name, entry in named.items() if name not in shared}
                    break
            else:
                blocks.append((networks, named))
        return [sorted(block.values(), key=_place) for _, block in blocks]

    def random_beside(self, entry: Entry) -> Entry | None:
        """Return the row of random real images that a row was compared with, whose labels are of the same kind."""
        row, gap = entry.row, entry.row["against_random"]
        fitting = [
            other for other in self.entries
            if gap and other.row["random"] and all(other.row[k] == row[k] for k in ("column", "ipc", "seeds"))
            and (other.row["role"] == "plain") == (row["role"] == "plain")
            and all(_close(paired(row, other.row)[k], gap[k]) for k in ("mean", "t")) and _told_alike(entry, other)
        ]  # fmt: skip
        return min(fitting, key=lambda other: (other.run != entry.run, other.name), default=None)

    def against_random(self, entry: Entry) -> Mapping[str, Any] | None:
        """Return how far a row is above the row beside it; None where there is none."""
        gap: Mapping[str, Any] | None = entry.row["against_random"]
        return gap if self.random_beside(entry) else None


def _told_alike(one: Entry, other: Entry) -> bool:
    """Whether students of two rows are told the same kind of labels, of the same networks where these are soft."""
    recipes = [entry.row["recipe"] for entry in (one, other)]
    if None in recipes:  # controls of old evaluations, which had one method's labels
        return one.run == other.run
    told = [(None if one.row["column"] == "H" else settled(r["networks"]), label_kind(r["label"])) for r in recipes]
    return told[0] == told[1]


def _close(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


ORDER = ("method", "hard", "control", "plain", "whole")


def _place(entry: Entry) -> tuple[int, float, str]:
    return ORDER.index(entry.row["role"]), -entry.row["top1"]["mean"], entry.name


def _named(entry: Entry) -> tuple[str, str]:
    return entry.row["arm"], entry.row["column"]


def _measured(entry: Entry) -> tuple[Any, ...]:
    return tuple(entry.row["top1"]["per_seed"])


@dataclass(frozen=True)
class Ledger:
    """Everything that pages are made of.

    frontiers: groups of rows of runs that measured a frontier, at any ipc. missing: groups that pages.yaml lists and
    that are not there, a sentence each. trials: rows of ablations, which are no results and stand on their own page.

    readme: (group, methods) of each of the README's tables. speed: name -> rows of `make bench`.
    """

    groups: list[Group]
    frontiers: list[Group]
    networks: list[Entry]
    proxies: list[Entry]
    trials: list[Entry]
    waiting: list[Mapping[str, Any]]
    missing: list[str]
    readme: list[tuple[Group, list[str]]]
    speed: dict[str, Mapping[str, Any]]


def read(folder: Path) -> Ledger:
    """Read and check a folder of rows. Raises: DatastillError, naming the file, for what cannot be understood."""
    chosen = _chosen(folder / "pages.yaml")
    waiting = _yaml(folder / "waiting.yaml")
    if not isinstance(waiting, list) or any(not isinstance(w, dict) or set(w) != WAITS for w in waiting):
        raise DatastillError(f"'{folder / 'waiting.yaml'}' must be a list of {words.listed(sorted(WAITS))}.")
    entries = read_rows(folder)
    rows = [entry for entry in entries if entry.kind == "accuracy"]
    groups = {g.name: g for g in grouped([e for e in rows if e.run["kind"] != "frontier"])}
    readme, order = chosen["readme"], chosen["order"]
    wanted = dict.fromkeys([*order, *(shown["group"] for shown in readme)])
    missing = [
        f"docs/results/pages.yaml lists the group '{name}', of which docs/results/ has no row"
        f"{suggestion(name, groups)} The pages go without it: add its rows, or take it off the list."
        for name in wanted if name not in groups
    ]  # fmt: skip
    listed = [groups[name] for name in dict.fromkeys([*order, *sorted(groups)]) if name in groups]
    speeds = sorted(folder.glob(f"{SPEED}*.json"))
    return Ledger(
        groups=listed,
        frontiers=grouped([e for e in rows if e.run["kind"] == "frontier"], per_ipc=False),
        networks=[e for e in entries if e.kind == "network"],
        proxies=[e for e in entries if e.kind == "proxy"],
        trials=[e for e in entries if e.kind == "trial"],
        waiting=waiting,
        missing=missing,
        readme=[(groups[shown["group"]], shown["methods"]) for shown in readme if shown["group"] in groups],
        speed={path.name: read_json(path) for path in speeds},
    )


def _chosen(path: Path) -> dict[str, Any]:
    chosen = _yaml(path)
    whole = isinstance(chosen, dict) and set(chosen) == {"readme", "order"}
    listed = whole and all(isinstance(value, list) for value in chosen.values())
    if listed and all(isinstance(shown, dict) and set(shown) == {"group", "methods"} for shown in chosen["readme"]):
        return dict(chosen)
    raise DatastillError(f"'{path}' must hold 'readme' (a list of groups with their methods) and 'order' (a list).")


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DatastillError(f"'{path}' cannot be read: {' '.join(str(error).split())}.") from error


def grouped(entries: Sequence[Entry], per_ipc: bool = True) -> list[Group]:
    """Return rows in groups, by name. The whole training set has no ipc: it stands in every group of its kind."""
    parts: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in (e for e in entries if e.row["role"] != "whole"):
        parts.setdefault(_protocol(entry, entries, per_ipc), []).append(entry)
    for entry in (e for e in entries if e.row["role"] == "whole"):
        mine = _protocol(entry, entries, per_ipc)
        fitting = [key for key in parts if key[:-1] == mine[:-1]]
        for key in fitting or [mine]:
            parts.setdefault(key, []).append(entry)
    return sorted((_group(key, mine) for key, mine in parts.items()), key=lambda group: group.name)


def _protocol(entry: Entry, entries: Iterable[Entry], per_ipc: bool) -> tuple[Any, ...]:
    row, run = entry.row, entry.run
    steps = row["steps"]
    if not row["same_work"]:  # it stands beside rows of its run that had the steps of the comparison
        beside = [e.row["steps"] for e in entries if e.run == run and e.row["same_work"]
                  and all(e.row[k] == row[k] for k in ("ipc", "student", "split"))]  # fmt: skip
        steps = beside[0] if beside else run["protocol"]["steps"]
    digest = digest_of([run["source"]["fingerprint"], settled(run["protocol"]["student"])])[:8]
    place = run["source"]["name"], row["student"], steps, row["batch"], row["split"], digest
    return (*place, row["ipc"] if per_ipc else None)


def _group(key: tuple[Any, ...], entries: Sequence[Entry]) -> Group:
    source, student, steps, batch, split, digest, ipc = key
    said = [source, *([f"ipc{ipc}"] if ipc is not None else []), student, f"{steps}x{batch}",
            *(["validation"] if split == "validation" else []), digest]  # fmt: skip
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(said).lower()).strip("-")
    return Group(name, source, ipc, student, steps, batch, split, tuple(entries))
