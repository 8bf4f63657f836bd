"""The one exception that users meet, and the sentences that it is made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DatastillError(Exception):
    """A mistake that its reader can mend: one sentence with what was asked, why not, and what would do."""


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean 'a' or 'b'?` for the nearest names, else the list of what exists."""
    known = sorted(names)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"; there are: {shown}." if known else "; there are none."


def unknown(kind: str, name: str, names: Iterable[str]) -> DatastillError:
    """Return the error for a name that no registry holds, with the nearest names that it does."""
    return DatastillError(f"there is no {kind} '{name}'{suggestion(name, names)}")
