"""Templates of pages: everything is escaped, and a name that a template lacks is an error, never a blank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2

from datastill.errors import DatastillError
from datastill.measure.evaluate import RESULTS
from datastill.report import words
from datastill.report.parts import REPORT
from datastill.runtime.files import read_json, write_bytes


def rendered(template: str, *, version: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: name of a file of `templates/` that extends `base.html.j2`.
        version: of the Datastill that made the measurements.
        values: what the template names.

    Raises: jinja2.UndefinedError where the template names something that is not there.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("datastill.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {"size": words.size, "duration": words.duration, "minus": words.minus}
    return templates.get_template(template).render(version=version, **values)


def write_page(run: Path, kind: str, command: str, render: Callable[[Mapping[str, Any]], str]) -> Path:
    """Write the page of a run's results beside them; returns its path.

    Args:
        run: the folder that `command` wrote.
        kind: what the results have to be, with rows.
        command: that writes such results.
        render: makes the page.

    Raises: DatastillError when the results are missing, damaged, of another kind or of another version.
    """
    results = read_json(run / RESULTS)
    if results.get("kind") != kind or not results.get("rows"):
        raise DatastillError(f"'{run / RESULTS}' holds no rows of a {kind}; {command} writes them.")
    with whole(run / RESULTS, command):
        page = render(results)
    write_bytes(run / REPORT, page.encode())
    return run / REPORT


@contextmanager
def whole(path: Path, command: str) -> Iterator[None]:
    """Turn a key that a results file lacks into one sentence, which says which command writes the file again."""
    try:
        yield
    except (KeyError, jinja2.UndefinedError) as error:
        raise DatastillError(
            f"'{path}' lacks something that a report needs ({error}); it was written by another version: run "
            f"{command} again."
        ) from error
