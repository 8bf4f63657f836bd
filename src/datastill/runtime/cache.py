"""One folder for what is dear to make: decoded data, teachers, measurements. Safe for several processes at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import platformdirs

from datastill.errors import DatastillError


def cache_dir() -> Path:
    """Return the cache folder: `DATASTILL_CACHE` when it is set, else the user's cache directory."""
    named = os.environ.get("DATASTILL_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("datastill"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` (a file `NAME.lock` beside it) for the block; other processes wait.

    Who held it may remove its folder, once what it kept safe is done: whoever waits makes the folder again.

    Raises: DatastillError when the folder cannot be written.
    """
    lock = filelock.FileLock(str(path) + ".lock")
    try:
        while not lock.is_locked:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # the folder is gone, and waiting in it has come to an end
                lock.acquire()
    except OSError as error:
        raise DatastillError(
            f"'{path.parent}' cannot be written: {error.strerror or error}; choose another folder (DATASTILL_CACHE "
            "names that of the cache)."
        ) from error
    try:
        yield
    finally:
        lock.release()
