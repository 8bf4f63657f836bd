"""Rebuild every table and figure of the pages from the rows in docs/results/. No number is typed.

python -m docs.tables             write the pages
python -m docs.tables --check     write nothing; exit code 1 where a page or figure is stale, or a listed group missing
python -m docs.tables --add RUN   write the rows of RUN/results.json into docs/results/, without paths; then the pages
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datastill.errors import DatastillError
from datastill.measure.ledger import write_rows
from datastill.runtime.files import read_json, write_bytes

from . import frontier, leaderboard, levers, proxies, readme, results
from .ledger import Ledger, read
from .words import between

ROOT = Path(__file__).resolve().parents[2]


def pages(root: Path, found: Ledger) -> dict[Path, str]:
    """Return every page and figure that is made from the rows, with its text. Pages without markers are left alone."""
    docs = root / "docs"
    made = {
        docs / "results.md": results.results_page(found),
        docs / "leaderboard.md": leaderboard.leaderboard_page(found),
    }
    charts, figures = frontier.frontier_parts(found)
    parts = [
        (docs / "frontier.md", "frontier", charts),
        (docs / "proxies.md", "proxies", proxies.measured(found.proxies)),
        (docs / "levers.md", "levers", levers.climbed(found.trials)),
    ]
    if found.readme:
        parts.append((root / "README.md", "results", readme.readme_tables(found.readme)))
    for path, name, body in parts:
        text = between(path.read_text(encoding="utf-8"), name, body) if path.exists() else None
        if text is not None:
            made[path] = text
            if name == "frontier":
                made |= {docs / "assets" / figure: svg for figure, svg in figures.items()}
    return made


def leftover(root: Path, made: dict[Path, str]) -> list[Path]:
    """Return figures of groups that are no more."""
    return [path for path in sorted((root / "docs" / "assets").glob(f"{frontier.PREFIX}*.svg")) if path not in made]


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tables", description="Rebuild the tables in docs/ from docs/results/.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which pages are out of date")
    parser.add_argument("--add", metavar="RUN", help="keep the rows of a run folder (or of its results.json) first")
    parser.add_argument("--replace", action="store_true", help="with --add: put new numbers in the place of old ones")
    asked = parser.parse_args(arguments)
    try:
        if asked.add:
            run = Path(asked.add)
            held = read_json(run if run.suffix == ".json" else run / "results.json")
            for path in write_rows(held, root / "docs" / "results", replace=asked.replace):
                print(f"{path.relative_to(root)} written")
        found = read(root / "docs" / "results")
        made = pages(root, found)
    except DatastillError as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    for sentence in found.missing:
        print(f"tables: {sentence}", file=sys.stderr)
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    old = leftover(root, made)
    for path in stale:
        print(f"{path.relative_to(root)} {'is out of date: run make tables' if asked.check else 'written'}")
        if not asked.check:
            write_bytes(path, made[path].encode())
    for path in old:
        print(f"{path.relative_to(root)} {'belongs to no rows: run make tables' if asked.check else 'removed'}")
        if not asked.check:
            path.unlink()
    return 1 if asked.check and (stale or old or found.missing) else 0
