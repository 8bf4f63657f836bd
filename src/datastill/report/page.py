"""Templates of pages: everything is escaped, and a name that a template lacks is an error, never a blank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2

from datastill.errors import DatastillError
from datastill.report import words


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
