"""The command line: a thin skin over the public face."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from datastill.cli import ablation, distil, measure, proxy, pruning, tell
from datastill.cli.common import app, console
from datastill.errors import DatastillError
from datastill.runtime.versions import VERSION

# Importing the modules of commands is what adds the commands.
__all__ = ["ablation", "app", "distil", "main", "measure", "proxy", "pruning", "tell"]


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Distil an image classification set into a few images and labels, and say honestly how good they are."""
    if version:
        console.print(VERSION)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Bad input ends in one sentence and exit code 2; --debug adds the traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    try:
        code = app(args=words, prog_name="datastill", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        said = _sentence(error)
        if debug or said is None:
            raise
        print(f"datastill: {said[0]}", file=sys.stderr)
        sys.exit(said[1])
    sys.exit(code or 0)


def _sentence(error: BaseException) -> tuple[str, int] | None:
    """Return what to tell a person and the exit code, or None for a mistake of our own."""
    if isinstance(error, DatastillError):
        return str(error), 2
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted; run it again to go on from here (distill wants --resume).", 130
    # Typer brings its parser's errors from Click or from a copy of it, depending on its version.
    tell = getattr(error, "format_message", None)
    return (tell(), 2) if tell else None
