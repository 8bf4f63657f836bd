"""The versions that results depend on."""

from __future__ import annotations

import platform

import numpy as np
import PIL
import torch

VERSION = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions that bytes and numbers depend on."""
    return {
        "datastill": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }
