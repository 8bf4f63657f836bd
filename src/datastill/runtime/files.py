"""Whole files or none: everything is written beside its name, flushed, and renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from datastill.errors import DatastillError


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then move the result there in one step.

    Raises: DatastillError when the disk is full or the folder cannot be written; `path` is then as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise _unwritable(path, error) from error
    part = Path(name)
    try:
        write(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    except SafetensorError as error:  # an operating system's error comes as text
        number = re.search(r"os error (\d+)", str(error))
        raise _unwritable(path, OSError(int(number[1]) if number else 0, str(error))) from error
    finally:
        part.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> DatastillError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DatastillError(
            f"the disk is full: '{path}' could not be written; free some space, then run the same command with "
            "--resume."
        )
    return DatastillError(f"cannot write '{path}': {error.strerror or error}; nothing was changed.")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    write_atomic(path, lambda part: part.write_bytes(data))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in their own order: that of a recipe's networks means something."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises: DatastillError, naming the file, when it is missing or does not parse."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatastillError(f"'{path}' does not exist.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatastillError(f"'{path}' is not readable as JSON: {error}.") from error


def save_arrays(path: Path, arrays: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, atomically; tensors are made contiguous and brought to the CPU."""
    ready: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name in sorted(arrays):
        array = arrays[name].detach().cpu().contiguous()
        storage = array.untyped_storage().data_ptr()
        ready[name] = array.clone() if storage in storages else array  # the format refuses tensors that share memory
        storages.add(storage)
    write_atomic(path, lambda part: save_file(ready, part, metadata=dict(metadata or {}) or None))


def load_arrays(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file. Raises: DatastillError, naming the file, when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise DatastillError(f"'{path}' does not exist.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise DatastillError(f"'{path}' is damaged: {error}.") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """Return a hex hash of plain data (dicts, lists, strings, numbers); key order does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
