"""What holds for every test: a cache of its own for the whole run, two threads, and nothing left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

# Before torch is imported: threads that wait for their turn must not spin, or a busy machine is many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import numpy as np
import pytest
import torch

# Seeded like every other test: the same examples on every machine, none remembered from a former run.
hypothesis.settings.register_profile("datastill", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("datastill")

# Set by pytest itself, and by scikit-learn, Fabric and torch when they are first imported, in whichever test that is.
OTHERS_ENVIRONMENT = {
    "PYTEST_CURRENT_TEST",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "TORCHINDUCTOR_CACHE_DIR",
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache and data out of the tests; one cache for all, so that a teacher is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATASTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("DATASTILL_DATA", raising=False)
        yield


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest, _own_cache: None) -> Iterator[None]:
    """Fail a test that leaves environment variables, moved global random state or threads behind."""
    torch.set_num_threads(2)
    environment, states, threads = _environment(), _random_states(), set(threading.enumerate())
    yield
    leaks = _changed_variables(environment) + _left_threads(threads)
    if request.node.get_closest_marker("global_random") is None:
        moved = [name for name, state in _random_states().items() if state != states[name]]
        leaks += [f"the global random state of {name}" for name in moved]
    if leaks:
        pytest.fail("the test left behind: " + "; ".join(leaks), pytrace=False)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OTHERS_ENVIRONMENT}


def _changed_variables(before: dict[str, str]) -> list[str]:
    """Name the variables that differ, and put them back for the tests that follow."""
    after = _environment()
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in names:
        os.environ.pop(name, None)
    os.environ.update({name: before[name] for name in names if name in before})
    return [f"the environment variable {name}" for name in names]


def _random_states() -> dict[str, object]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
    }


def _left_threads(before: set[threading.Thread]) -> list[str]:
    """Name the threads that would keep the process alive, after a second in which they may end by themselves."""
    new = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in new:
        thread.join(timeout=1.0)
    return [f"the running thread {thread.name}" for thread in new if thread.is_alive()]
