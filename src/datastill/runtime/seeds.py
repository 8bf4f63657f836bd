"""Randomness is a function of names: f(seed, stage, part, round, name), never a generator that is carried along."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *names: object) -> int:
    """Return a 63-bit integer that depends on the seed and on every name, in order."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def rng(seed: int, *names: object) -> np.random.Generator:
    """Return a fresh counter-based generator for the seed and names; equal arguments give equal streams."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *names)))


@contextmanager
def torch_seeded(seed: int, *names: object) -> Iterator[None]:
    """Seed PyTorch's global generators inside the block (layer initialisation, dropout) and restore them after it."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, *names))
        yield
