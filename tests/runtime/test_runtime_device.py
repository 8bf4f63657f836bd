"""Devices and precisions by name, and the allocator."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from datastill.errors import DatastillError
from datastill.runtime import device as module
from datastill.runtime.device import keep_large_blocks, memory_peak_bytes, open_device
from datastill.runtime.versions import VERSION, versions


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(DatastillError, match=r"there is no device 'gpu'; did you mean 'cpu'"):
        open_device("gpu")
    with pytest.raises(DatastillError, match=r"there is no precision 'float16'; did you mean 'float32'"):
        open_device("cpu", "float16")
    with pytest.raises(DatastillError, match=r"there is no precision 'half'; there are: auto, bf16, float32\."):
        open_device("cpu", "half")


def test_a_cuda_device_that_is_not_there_is_refused_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DatastillError, match="no CUDA device was found; use --device cpu"):
        open_device("cuda")
    auto = open_device()
    assert (auto.torch.type, auto.precision) == ("cpu", "float32")


def test_precision_decides_what_forward_passes_are_computed_in() -> None:
    a = torch.ones(4, 4)
    exact, half = open_device("cpu"), open_device("cpu", "bf16")
    with exact.autocast():
        assert (a @ a).dtype == torch.float32
    with half.autocast():
        assert (a @ a).dtype == torch.bfloat16
    assert (a @ a).dtype == torch.float32


def test_weights_that_move_inside_a_context_are_seen_by_the_next_pass() -> None:
    half, x = open_device("cpu", "bf16"), torch.ones(1, 1)
    weight = torch.ones(1, 1, requires_grad=True)
    seen = []
    with half.autocast():
        for context in (nullcontext(), half.autocast()):
            with context:
                seen.append((x @ weight).item())
            with torch.no_grad():
                weight.add_(1.0)
        seen.append((x @ weight).item())
    assert seen == [1.0, 2.0, 3.0]


def test_a_device_says_what_a_measurement_records() -> None:
    said = open_device("cpu", "bf16").describe()
    assert said.keys() == {"device", "name", "precision", "compiled", "threads"}
    assert said["compiled"] == "no"
    assert (said["device"], said["precision"], said["threads"]) == ("cpu", "bf16", str(torch.get_num_threads()))
    assert said["name"]


def test_a_network_runs_as_it_is_unless_compiling_was_asked_for() -> None:
    network = torch.nn.Identity()
    assert open_device("cpu").compiled(network) is network


def test_large_blocks_are_kept_where_there_is_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(keep_large_blocks(), bool)

    def without(_: object) -> object:
        return object()  # a C library without mallopt

    monkeypatch.setattr(ctypes, "CDLL", without)
    assert keep_large_blocks() is False


FAULTS = """
import resource, torch
from datastill.runtime.device import keep_large_blocks
kept = keep_large_blocks()
found = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(100 << 20) for _ in range(3)]
    del blocks
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(kept), *found)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_more_than_a_gigabyte_that_was_freed_at_once_is_paid_for_once() -> None:
    said = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    kept, first, *_, last = (int(word) for word in said.split())
    assert kept == 1
    assert last < 0.1 * first  # the second round may still find its blocks laid out otherwise


def test_the_processor_has_a_name_even_without_a_list_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    assert isinstance(module._processor(), str)


def test_the_largest_memory_counts_bytes() -> None:
    assert memory_peak_bytes() > 10 * 2**20


def test_versions_name_what_numbers_depend_on() -> None:
    said = versions()
    assert said["datastill"] == VERSION
    assert said["torch"] == torch.__version__
    assert said.keys() == {"datastill", "python", "torch", "numpy", "pillow"}
