"""The ledger: one JSON file per measured row. Every table and figure of the pages is a function of these files.

A row file (schema 1) is `{"schema": 1, "kind": ..., "key": ..., "row": ..., "run": ...}`. Kinds: "accuracy" (students
of one arm), "network" (a network that could be sent in place of a set), "proxy" (a whole run of a proxy task) and
"trial" (one variant of an ablation, or where it began; never a result). `key` is what makes a row itself; it follows
from the row and the run, so two files can never claim one row unnoticed. `row` is the row as it was measured, with
thinner curves and no embedding; `run` is what rows of one run share. No file holds a path of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from datastill.errors import DatastillError
from datastill.measure.rowcheck import KINDS, RUNS, SCHEMA, mistakes
from datastill.recipe import TrainRecipe
from datastill.runtime.files import digest_of, read_json, write_json
from datastill.settings import plain

SPEED = "bench-"  # files of `make bench` lie beside the rows
POINTS = 40  # of a committed loss curve
CURVES = {"losses", "item_accuracy", "embedding"}
TIMES = {"seconds", "set_seconds"}  # no two measurements of a time are equal
SHARED = ("source", "real_bytes", "versions", "device", "commands", "python", "peak_bytes", "seconds", "counts",
          "chosen_on", "protocol", "train_images")  # fmt: skip
# Of a key, for a readable file name.
NAMING = ("source", "method", "arm", "proxy", "plan", "experiment", "variant", "ipc", "student", "column", "steps")
NAMES = {
    "accuracy": ("method", "arm", "ipc", "student", "column", "split", "steps", "batch"),
    "network": ("arm",),
    "proxy": ("proxy", "method", "ipc"),
    "trial": ("plan", "experiment", "variant", "student", "steps", "split"),
}
STUDENT = r", seed \d+$"  # ends the name of one student's phase; its seconds stand in its row
EVALUATION = "evaluation"
USUAL = plain(TrainRecipe())
SIGNS = {"optimiser", "lr", "schedule", "batch", "epochs"}  # a mapping with these is a training recipe
EXAMPLES = 3


@dataclass(frozen=True)
class Entry:
    """One row file as it was read and checked. name: of the file."""

    name: str
    kind: str
    key: Mapping[str, Any]
    row: Mapping[str, Any]
    run: Mapping[str, Any]


def row_files(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the row files of a run's results, by file name.

    Args:
        results: as `results.json` of an evaluation (no "kind"), a comparison, a frontier, a proxy task or an
            ablation holds them.

    Raises: DatastillError for results of another kind or schema, rows that lack a field, or two rows with one key.
    """
    kind, schema = results.get("kind", EVALUATION), results.get("schema", SCHEMA)
    if kind not in RUNS or schema != SCHEMA:
        raise DatastillError(
            f"the results are of kind '{kind}' and schema {schema!r}, which are not known here (schema {SCHEMA} is); "
            "make them with this version of Datastill."
        )
    run = _run(results)
    made: dict[str, dict[str, Any]] = {}
    for part, row in _parts(results, kind):
        row = _cleaned(row)
        key = key_of(part, row, run)
        name = file_name(key)
        made_file = {"schema": SCHEMA, "kind": part, "key": key, "row": row, "run": run}
        _refuse(f"row '{row.get('arm', part)}' of the results", made_file)
        if name in made:
            raise DatastillError(f"two rows of the results have one key, that of '{name}'; a row is measured once.")
        made[name] = made_file
    return made


def _parts(results: Mapping[str, Any], kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (kind of row, row) of whatever was measured."""
    if kind == "proxy":
        left = {k: v for k, v in results.items() if k not in {"kind", "schema", *SHARED}}
        return [("proxy", _without(left, CURVES))]
    if kind == "ablation":
        climbed = [row for experiment in results.get("experiments", ()) for row in experiment.get("rows", ())]
        return [("trial", _thinner(row)) for row in [results.get("start") or {}, *climbed]]
    parts = [("accuracy", _thinner(row)) for row in results.get("rows", ())]
    return parts + [("network", _thinner(row)) for row in results.get("networks", ())]


def _run(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all rows of a run share."""
    run = {"kind": results.get("kind", EVALUATION)} | {key: results.get(key) for key in SHARED}
    recipe, rows = results.get("recipe"), results.get("rows") or [{}]
    if run["protocol"] is None and recipe is not None and rows:
        own = rows[0]
        run["protocol"] = {"student": recipe["student"], "epoch": "last"} | {
            name: own.get(name) for name in ("steps", "batch", "seeds", "split")
        }
    networks = results.get("teachers") or {}
    run["teachers"] = {n: {k: v for k, v in facts.items() if k != "losses"} for n, facts in networks.items()}
    seconds = run["seconds"] or {}
    run["seconds"] = {phase: s for phase, s in seconds.items() if not re.search(STUDENT, phase)}
    run["beside"] = None if recipe is None else digest_of(settled(recipe))
    if run["kind"] == "ablation":
        run |= {name: results.get(name) for name in ("plan", "best", "failures")}
        run["experiments"] = [_without(experiment, {"rows"}) for experiment in results.get("experiments", ())]
    cleaned: dict[str, Any] = _cleaned(run)
    return cleaned


def key_of(kind: str, row: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a row itself.

    recipe: digest of the arm's own recipe, None where it is not known. beside: digest of the recipe whose evaluation a
    row stands in, None elsewhere. training: digest of how students are trained. budget: the bytes that trials fill.
    """
    source, protocol = run.get("source") or {}, run.get("protocol") or {}
    key: dict[str, Any] = {"kind": kind, "source": source.get("name"), "fingerprint": source.get("fingerprint")}
    key |= {name: row.get(name) for name in NAMES[kind]}
    if kind == "trial":
        key["budget"] = protocol.get("budget")
    trained = {"proxy": protocol, "trial": row.get("trained")}  # each variant may train its students in its own way
    recipe, training = row.get("recipe"), trained.get(kind, protocol.get("student"))
    return key | {
        "recipe": None if recipe is None else digest_of(settled(recipe)),
        "beside": run.get("beside"),
        "training": digest_of(settled(training)),
        "precision": (run.get("device") or {}).get("precision"),
        "datastill": (run.get("versions") or {}).get("datastill"),
    }


def settled(value: Any) -> Any:
    """Return plain data in which training recipes have no setting at its default, at any depth.

    A recipe is then the same whether it was written before or after a setting came whose default means what was done.
    """
    if isinstance(value, Mapping):
        usual = USUAL if value.keys() >= SIGNS else {}
        return {k: settled(v) for k, v in value.items() if k not in usual or usual[k] != v}
    return [settled(v) for v in value] if isinstance(value, list | tuple) else value


def file_name(key: Mapping[str, Any]) -> str:
    """Return the name of a row's file: what a person looks for, then eight digits of the key's digest."""
    said = [f"{'ipc' if name == 'ipc' else ''}{key[name]}" for name in NAMING if key.get(name) is not None]
    slug = re.sub(r"[^a-z0-9]+", "-", "-".join(dict.fromkeys(said)).lower()).strip("-")
    return f"{slug[:100].rstrip('-')}-{digest_of(key)[:8]}.json"


def read_rows(folder: Path) -> list[Entry]:
    """Read and check every row file of a folder, in the order of their names.

    Raises: DatastillError, naming the file, for one that is not readable, has another schema, lacks a field or holds an
        impossible value, and naming both for two files that claim the same row.
    """
    found: dict[str, Entry] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith(SPEED):
            continue
        entry = _entry(path)
        digest = digest_of(entry.key)
        if digest in found:
            raise DatastillError(
                f"'{path}' and '{found[digest].name}' claim the same row; keep the one that was measured last."
            )
        found[digest] = entry
    return list(found.values())


def _entry(path: Path) -> Entry:
    file = read_json(path)
    _refuse(f"'{path}'", file)
    entry = Entry(path.name, file["kind"], file["key"], file["row"], file["run"])
    if key_of(entry.kind, entry.row, entry.run) != entry.key:
        raise DatastillError(
            f"'{path}' was changed by hand: its key is not that of its row; write it again from the run's results."
        )
    return entry


def _refuse(name: str, file: Any) -> None:
    """Raise, in one sentence, for a row file that is not understood."""
    found = mistakes(file)
    if found:
        more = f" and {len(found) - EXAMPLES} more" if len(found) > EXAMPLES else ""
        raise DatastillError(
            f"{name} is no row that this version can read (schema {SCHEMA}; kinds {', '.join(KINDS)}): "
            f"{'; '.join(found[:EXAMPLES])}{more}."
        )


def write_rows(results: Mapping[str, Any], folder: Path, *, replace: bool = False) -> list[Path]:
    """Write the row files of a run into `folder`, each whole or not at all, and return their paths.

    replace: overwrite a row that was measured before with other numbers. Nothing is written where one is refused.
    Raises: DatastillError for results that `row_files` refuses, and for a known row with other numbers.
    """
    files = row_files(results)
    for name, file in files.items():
        if not replace and (folder / name).exists():
            old = _entry(folder / name)
            if _without(old.row, TIMES) != _without(file["row"], TIMES):
                raise DatastillError(
                    f"'{folder / name}' holds this row with other numbers; say --replace to put the new ones in its "
                    "place."
                )
    for name, file in files.items():
        write_json(folder / name, file)
    return [folder / name for name in files]


def _thinner(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: thinned(v, POINTS) if k == "losses" else v for k, v in row.items() if k != "embedding"}


def thinned(losses: Sequence[float], points: int) -> list[float]:
    """Return at most `points` means of neighbours; so many or fewer values come back as they are."""
    width = -(-len(losses) // points) or 1
    parts = [losses[i : i + width] for i in range(0, len(losses), width)]
    return [round(sum(part) / len(part), 6) for part in parts] if width > 1 else list(losses)


def _without(value: Any, names: Iterable[str]) -> Any:
    """Return plain data without the named entries, at any depth."""
    if isinstance(value, Mapping):
        return {k: _without(v, names) for k, v in value.items() if k not in names}
    return [_without(v, names) for v in value] if isinstance(value, list | tuple) else value


def _cleaned(value: Any) -> Any:
    """Return plain data as JSON gives it back, with no absolute path in its texts."""
    if isinstance(value, Mapping):
        return {str(k): _cleaned(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(v) for v in value]
    return without_paths(value) if isinstance(value, str) else value


def without_paths(text: str) -> str:
    """Return text with every absolute path cut down to its last name; relative paths and addresses stay."""
    quoted = re.sub(r"(?<=['\"])(?:[A-Za-z]:)?[\\/][^'\"]*(?=['\"])", _last, text)
    return re.sub(r"(?<![\w.~:/])(?:[A-Za-z]:[\\/]|/)[^\s'\"/][^\s'\"]*", _last, quoted)


def _last(path: re.Match[str]) -> str:
    return PureWindowsPath(path[0]).name  # it knows both kinds of slash
