"""Rebuild docs/results.md, and the table in README.md, from the measured rows in docs/results/. No number is typed.

python docs/tables.py           write the pages
python docs/tables.py --check   write nothing; exit code 1 when a page is out of date or a listed file is missing
python docs/tables.py --add RUN NAME
                                keep RUN/results.json, without paths, as docs/results/NAME.json; then write the pages
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from datastill.errors import DatastillError
from datastill.recipe import method
from datastill.report import rows, tables, words
from datastill.runtime.files import read_json, write_bytes, write_json

ROOT = Path(__file__).resolve().parents[1]
MARKERS = ("<!-- results -->", "<!-- /results -->")
NOTICE = "<!-- Written by `make tables` from docs/results/. A change here would be lost; change the rows. -->"
INTRODUCTION = """\
# Results

Everything on this page was written by `make tables` from the files in `docs/results/`: one file a run, with its
command, recipe, versions, device, seeds, accuracy of every seed, times and bytes. How such a number is made is told in
[What a number means](what-a-number-means.md); in short:
"""
WAITING = (
    "These commands are ready to run as they stand; their rows are not there yet. The number beside each is the "
    "paper's, not ours."
)


@dataclass
class Results:
    """What lies in docs/results/. files: name -> results, in the page's order. missing: what is listed but absent.
    speed: name -> rows of `make bench`, the files bench-*.json."""

    files: dict[str, Mapping[str, Any]]
    readme: str | None
    waiting: list[Mapping[str, str]]
    missing: list[str] = field(default_factory=list)
    speed: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def read(folder: Path) -> Results:
    """Read rows, their order and what waits. Raises: DatastillError, naming the file, for one that cannot be read."""
    chosen = _yaml(folder / "pages.yaml")
    waiting = _yaml(folder / "waiting.yaml")
    if not isinstance(chosen, dict) or set(chosen) != {"readme", "order"} or not isinstance(chosen["order"], list):
        raise DatastillError(f"'{folder / 'pages.yaml'}' must hold 'readme' (a file or null) and 'order' (a list).")
    if not isinstance(waiting, list) or any(set(entry) != {"what", "command", "paper"} for entry in waiting):
        raise DatastillError(f"'{folder / 'waiting.yaml'}' must be a list of what, command and paper.")
    every = sorted(path.name for path in folder.glob("*.json"))
    benches = [name for name in every if name.startswith("bench-")]
    there = [name for name in every if name not in benches]
    listed = list(dict.fromkeys([*chosen["order"], *there]))
    wanted = dict.fromkeys([*chosen["order"], *([chosen["readme"]] if chosen["readme"] else [])])
    files = {name: read_json(folder / name) for name in listed if name in there}
    speed = {name: read_json(folder / name) for name in benches}
    return Results(files, chosen["readme"], waiting, [name for name in wanted if name not in there], speed)


def _results(run: Path) -> Any:
    return read_json(run if run.suffix == ".json" else run / "results.json")


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DatastillError(f"'{path}' cannot be read: {' '.join(str(error).split())}.") from error


def results_page(found: Results) -> str:
    """Return docs/results.md."""
    meanings = "\n".join(f"- **{word}.** {sentence}" for word, sentence in words.what_numbers_mean())
    parts = [NOTICE, INTRODUCTION + "\n" + meanings]
    parts += [_section(name, results) for name, results in found.files.items()] or ["No run has been measured yet."]
    for name, bench in found.speed.items():
        parts += _speed(name, bench)
    if found.waiting:
        parts += ["## Waiting for a GPU", WAITING]
        parts += [f"**{tables.escaped(w['what'])}**\n\n{_shell([w['command']])}\n\nThe paper's number: "
                  f"{tables.escaped(w['paper'])}." for w in found.waiting]  # fmt: skip
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def title(results: Mapping[str, Any]) -> str:
    """Return the heading of a results file."""
    name, known = tables.escaped(results["source"]["name"]), method(results["method"])
    makers = ", ".join(tables.code(network) for network in results["recipe"]["networks"])
    networks = f", networks {makers}" if makers else ""
    return f"{name} at {results['ipc']} images per class: {known.title} ({tables.code(known.name)}){networks}"


def said(results: Mapping[str, Any]) -> str:
    """Return the verdict, a sentence per student, and how the method stands to every control."""
    verdict = "\n\n".join(f"**{tables.escaped(sentence)}**" for sentence in results["verdict"])
    standing = [rows.standing(results, student) for student in rows.students(results)]
    return "\n\n".join([verdict, *(tables.escaped(sentence) for sentence in standing if sentence)])


def _section(name: str, results: Mapping[str, Any]) -> str:
    device, versions = results["device"], results["versions"]
    chosen = "on a validation split" if results["chosen_on"] else "none"
    made = [f"{key} {version}" for key, version in versions.items()]
    parts = [f"## {title(results)}", said(results), _commands(results)]
    parts.append(
        f"Device: {tables.escaped(device['name'])} ({device['device']}, {device['precision']}, threads: "
        f"{device['threads']}). Versions: {', '.join(made)}. Seed of the set: {results['recipe']['seed']}. "
        f"Choices made: {chosen}. The whole row file: [{name}](results/{name})."
    )
    for student in rows.students(results):
        parts += [f"### Accuracies with {tables.code(student)}", tables.accuracy_tables(results, student)]
    if results["teachers"]:
        parts += ["### The networks of the recipe, and shipping one instead", words.SHIPPING,
                  tables.teachers_table(results)]  # fmt: skip
    parts += ["### Bytes", tables.bytes_table(results), "### Counts and times", " ".join(words.budget(results))]
    measured = words.losses_before_and_after(results)
    if measured:
        parts.append(tables.markdown_table(words.LOSSES, measured))
    peak = words.size(results["peak_bytes"])
    parts += [tables.times_table(results), f"Largest memory of the measuring process: {peak}."]
    return "\n\n".join(parts)


def _speed(name: str, bench: Mapping[str, Any]) -> list[str]:
    machine, versions = bench["machine"], bench["versions"]
    clock = {"cpu": "the processor's clock", "wall": "the wall clock"}[bench["clock"]]
    mib = 1 << 20
    lines = [
        (
            row["phase"], tables.code(row["network"]), row["precision"], str(row["items"]), f"{row['ratio']:.2f}",
            f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}", f"{row['max_relative_difference_float64']:.0e}",
            f"{row['reference_peak_bytes'] / mib:.0f}", f"{row['product_peak_bytes'] / mib:.0f}",
        )
        for row in bench["rows"]
    ]  # fmt: skip
    head = ["phase", "network", "precision", "items", "times faster, median", "least to most", "difference in float64",
            "reference, MiB", "Datastill, MiB"]  # fmt: skip
    told = (
        f"Each phase against a plain implementation of the same mathematics (`make bench`) in turns; {bench['rounds']} "
        f"rounds, threads: {bench['threads']}, by {clock}, on {tables.escaped(machine['name'])} with torch "
        f"{versions['torch']}. Both compute the same: differences are relative, in float64. Memory is the "
        f"largest of each process above what its libraries take. The row file: [{name}](results/{name})."
    )
    return ["## Speed against a plain reference", told, tables.markdown_table(head, lines)]


def _commands(results: Mapping[str, Any]) -> str:
    commands = [command for command in results["commands"] if command]
    return _shell(commands) if commands else "Run from Python; the row file holds the recipe."


def _shell(commands: Sequence[str]) -> str:
    return "```sh\n" + "\n".join(command.strip("\n") for command in commands) + "\n```"


def readme_table(results: Mapping[str, Any]) -> str:
    """Return what stands in the README: the verdict and the first student's table."""
    student = rows.students(results)[0]
    table = tables.accuracy_tables(results, student)
    more = "More rows, and what a number means, are in [docs/results.md](docs/results.md)."
    return "\n\n".join([NOTICE, f"**{title(results)}**", said(results), _commands(results), table, more])


def pages(root: Path, found: Results) -> dict[Path, str]:
    """Return every page that is made from the rows, with its text."""
    made = {root / "docs" / "results.md": results_page(found)}
    readme = root / "README.md"
    if readme.exists() and found.readme in found.files:
        text = readme.read_text(encoding="utf-8")
        before, first, rest = text.partition(MARKERS[0])
        _, second, after = rest.partition(MARKERS[1])
        if first and second:
            table = readme_table(found.files[found.readme])
            made[readme] = f"{before}{first}\n{table}\n{second}{after}"
    return made


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description="Rebuild the tables in docs/ from docs/results/.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which pages are out of date")
    parser.add_argument("--add", nargs=2, metavar=("RUN", "NAME"), help="keep a run's results as a row file first")
    asked = parser.parse_args(arguments)
    check = asked.check
    try:
        if asked.add:
            run, name = asked.add
            write_json(root / "docs" / "results" / f"{name}.json", tables.reduce_results(_results(Path(run))))
        found = read(root / "docs" / "results")
        made = pages(root, found)
    except DatastillError as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    for name in found.missing:
        print(
            f"tables: docs/results/pages.yaml lists '{name}', which is not in docs/results/; the pages go without it: "
            "add that file, or take it off the list.",
            file=sys.stderr,
        )
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(root)} {'is out of date: run make tables' if check else 'written'}")
        if not check:
            write_bytes(path, made[path].encode())
    return 1 if check and (stale or found.missing) else 0


if __name__ == "__main__":
    sys.exit(main())
