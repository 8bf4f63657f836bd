"""Sending a trained network in place of a training set: its bytes as a file, and its accuracy after the rounding."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from datastill.measure.student import Testing
from datastill.networks import Network
from datastill.runtime.device import Device
from datastill.runtime.files import save_arrays
from datastill.training.predict import accuracy, predict

Form = Literal["fp32", "fp16", "int8"]
FORMS: tuple[Form, ...] = ("fp32", "fp16", "int8")
SMALLEST, EPSILON = 2.0**-24, 2.0**-10  # above zero, and above one, of fp16


def packed(state: Mapping[str, Tensor], form: Form) -> dict[str, Tensor]:
    """Return the arrays that are sent: fp16 rounds every float; int8 rounds weights of two dimensions and more, per
    output channel and symmetric around zero, with an fp16 step for each channel, and the rest to fp16."""
    sent: dict[str, Tensor] = {}
    for name, value in state.items():
        if not value.is_floating_point() or form == "fp32":
            sent[name] = value
        elif form == "int8" and value.ndim >= 2:
            step = _rounded_up(value.flatten(1).abs().amax(dim=1) / 127)
            wide = step.float().view(-1, *[1] * (value.ndim - 1))
            sent[name] = (value / wide).round().clamp(-127, 127).to(torch.int8)
            sent[f"{name}.step"] = step
        else:
            sent[name] = value.half()
    return sent


def _rounded_up(step: Tensor) -> Tensor:
    """Return positive fp16 numbers that are not below `step`: a smaller one would cut the largest weights off."""
    half = step.clamp(min=SMALLEST).half()
    return torch.where(half.float() < step, (step * (1 + EPSILON) + SMALLEST).half(), half)


def unpacked(sent: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that a receiver makes of `packed` arrays; `like` gives names and types."""
    made = {}
    for name, value in like.items():
        got = sent[name]
        if f"{name}.step" in sent:
            got = got.float() * sent[f"{name}.step"].float().view(-1, *[1] * (got.ndim - 1))
        made[name] = got.to(value.dtype)
    return made


def ship(network: Network, form: Form, testing: Testing, device: Device) -> dict[str, Any]:
    """Return bytes of the file and top-1 in percent of a network that was sent so."""
    sent = packed(network.state_dict(), form)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_arrays(path, sent)
        size = path.stat().st_size
    received = copy.deepcopy(network)
    received.load_state_dict(unpacked({k: v.cpu() for k, v in sent.items()}, network.state_dict()))
    logits = predict(received, testing.images, device=device.torch)
    return {"bytes": size, "top1": accuracy(logits, testing.labels)}
