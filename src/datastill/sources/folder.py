"""Folders of images: one subfolder per class, with or without train/ and test/ above."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from datastill.errors import DatastillError, suggestion
from datastill.sources.listing import Listing, Opener
from datastill.sources.pictures import EXTENSIONS

TEST_NAMES = ("test", "val", "valid", "validation")
"""Names of a test split, the first that is there is taken."""


def list_folder(root: Path, name: str) -> Listing:
    """List the images of a folder.

    Args:
        root: holds a folder per class, or train/ and test/ (or val/, valid/, validation/) with a folder per class.
        name: of the data set.

    Raises: DatastillError when there are no class folders, the test split holds no image, or it has a class that the
        training split lacks.
    """
    root = root.resolve()
    train, tests = _split_folders(root)
    names = _class_names(train, name)
    notes = [] if not tests[1:] else [f"Left aside: {', '.join(f'{t.name}/' for t in tests[1:])}."]
    files: list[tuple[str, Path, int]] = []
    for label, one in enumerate(names):
        files += [(relative, path, label) for relative, path in _images(root, train / one)]
    trained = len(files)
    for test in tests[:1]:
        files += _test_files(root, test, names)
    if tests and len(files) == trained:
        raise DatastillError(f"the test folder '{tests[0]}' holds no image; add some, or remove the folder.")
    paths = tuple(path for _, path, _ in files)

    def stream() -> Iterator[Opener]:
        return (partial(_read, path) for path in paths)

    return Listing(
        name=name,
        origin=str(root),
        classes=tuple(names),
        ids=tuple(relative for relative, _, _ in files),
        labels=np.array([label for _, _, label in files], np.int64),
        testing=np.arange(len(files)) >= trained if tests else None,
        stream=stream,
        key=["folder", str(root), [[relative, *_stamp(path)] for relative, path, _ in files]],
        notes=tuple(notes),
    )


def has_class_folders(root: Path) -> bool:
    """Tell whether a folder has any visible subfolder."""
    return bool(_folders(root))


def _split_folders(root: Path) -> tuple[Path, list[Path]]:
    """Return the folder of the training classes and the test folders, best first.

    A class may itself be called train or test: train/ is a split only where it holds folders and no images.
    """
    train = root / "train"
    if not train.is_dir() or not _folders(train):
        return root, []
    return train, [root / one for one in TEST_NAMES if (root / one).is_dir() and _folders(root / one)]


def _class_names(train: Path, name: str) -> list[str]:
    names = _folders(train)
    if not names:
        raise DatastillError(
            f"'{train}' has no class folders; '{name}' needs one folder of images per class, "
            "or Parquet files such as train.parquet and test.parquet."
        )
    if set(names) <= {"train", *TEST_NAMES}:
        raise DatastillError(
            f"'{train}' holds {', '.join(f'{one}/' for one in names)} but no train/ with a folder of images per class."
        )
    return names


def _test_files(root: Path, test: Path, names: list[str]) -> list[tuple[str, Path, int]]:
    files = []
    for one in _folders(test):
        if one not in names:
            raise DatastillError(
                f"'{test}' has the class folder '{one}', which the training split lacks{suggestion(one, names)}"
            )
        files += [(relative, path, names.index(one)) for relative, path in _images(root, test / one)]
    return files


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _images(root: Path, folder: Path) -> list[tuple[str, Path]]:
    """Return the visible image files below a folder as (name relative to root, path), in the order of their names."""
    found, seen = [], set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if (real := here.resolve()) in seen:
            continue  # a link that leads back into a folder already listed
        seen.add(real)
        for path in here.iterdir():
            if path.name.startswith("."):
                continue
            if path.is_dir():
                waiting.append(path)
            elif path.suffix.lower() in EXTENSIONS and path.is_file():
                found.append((path.relative_to(root).as_posix(), path))
    return sorted(found)


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
