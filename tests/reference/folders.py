"""Folders of distilled sets that somebody meddled with: what their manifests claim, and that loading refuses them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError


def manifest(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a set says."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


def claim(folder: Path, edit: Callable[[dict[str, Any]], object] = lambda made: None, *, rehash: bool = True) -> None:
    """Edit the manifest, after making its sizes and hashes true for the files that lie there."""
    made = manifest(folder)
    if rehash:
        for name, entry in made["files"].items():
            data = (folder / name).read_bytes()
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(made)
    (folder / "manifest.json").write_text(json.dumps(made), encoding="utf-8")


def refused(folder: Path, sentence: str) -> str:
    """Assert that loading says, in a whole sentence, what matches `sentence`; returns what it says."""
    with pytest.raises(DatastillError, match=sentence) as error:
        DistilledDataset.load(folder)
    assert str(error.value).endswith((".", "?"))
    return str(error.value)
