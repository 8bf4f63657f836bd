"""The registry of networks: a decorator records a builder under a public name, `create_network` builds by name."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from datastill.errors import DatastillError, suggestion, unknown
from datastill.networks.body import Body, Network, Shape
from datastill.networks.space import Space
from datastill.runtime.seeds import torch_seeded

B = TypeVar("B", bound=Callable[..., Body])

SMALLEST_SIDE = 8
_builders: dict[str, Callable[..., Body]] = {}
_sketches: dict[tuple[str, int, Shape, str], Network] = {}


def network(name: str) -> Callable[[B], B]:
    """Register `builder(classes, shape, **settings) -> Body` under a public name; its keywords are the settings."""

    def record(builder: B) -> B:
        assert name not in _builders, f"two networks are called '{name}'"
        _builders[name] = builder
        return builder

    return record


def list_networks(pattern: str = "*") -> list[str]:
    """Return the registered names that match a wildcard pattern, sorted.

    A pattern that starts with `timm:` or `torchvision:` lists the models of that library instead.

    Raises:
        DatastillError: the library asked for is not installed.
    """
    library, colon, rest = pattern.partition(":")
    if colon:
        from datastill.networks import adapters

        return [f"{library}:{name}" for name in fnmatch.filter(adapters.models(library), rest)]
    return sorted(fnmatch.filter(_builders, pattern))


def create_network(
    name: str, *, classes: int, shape: Shape, space: Space, seed: int | None = None, **settings: Any
) -> Network:
    """Build an untrained network that eats pixels.

    Args:
        name: a registered name, or `timm:NAME` or `torchvision:NAME`.
        classes: K, at least 1.
        shape: (C, H, W) of one image, sides of at least 8 pixels.
        space: normalisation of the pixels, with C channels.
        seed: makes the initialisation depend on this number alone and leaves PyTorch's global generators untouched.
        **settings: keywords of the builder.

    Raises:
        DatastillError: unknown name or setting, or a shape that does not fit.
    """
    builder = _builder(name)
    known = [p for p in inspect.signature(builder).parameters if p not in ("classes", "shape")]
    for setting in settings:
        if setting not in known:
            raise DatastillError(f"network '{name}' has no setting '{setting}'{suggestion(setting, known)}")
    channels, *sides = shape
    if classes < 1 or channels < 1 or min(sides) < SMALLEST_SIDE:
        raise DatastillError(
            f"network '{name}' was asked for {classes} classes and images of shape {tuple(shape)}; "
            f"give at least one class, one channel and sides of {SMALLEST_SIDE} pixels or more."
        )
    if space.channels != channels:
        raise DatastillError(
            f"network '{name}' was asked for images of {channels} channels, but its space has {space.channels}; "
            "give one mean and deviation per channel."
        )
    with nullcontext() if seed is None else torch_seeded(seed, "init"):
        body = builder(classes, shape, **settings)
    return Network(body, space, name=name, classes=classes, shape=shape, settings=settings)


def sketch(name: str, *, classes: int, shape: Shape, settings: Mapping[str, Any]) -> Network:
    """Return a network without memory for its weights, to see whether it can be built and what it is made of.

    Arguments and errors are those of `create_network`, and any value that the network cannot be built with is refused
    in a sentence; pretrained weights are not looked for. Not to be changed: equal calls return the same object.
    """
    asked = tuple((k, v) for k, v in settings.items() if k != "pretrained")
    key = (name, classes, shape, repr(asked))
    if key not in _sketches:
        _sketches[key] = _draw(name, classes, shape, dict(asked))
    return _sketches[key]


def _draw(name: str, classes: int, shape: Shape, settings: dict[str, Any]) -> Network:
    space = Space([0.0] * shape[0], [1.0] * shape[0])
    taken = sorted(settings.keys() & {"name", "classes", "shape", "space", "seed"})
    if taken:
        raise DatastillError(
            f"network '{name}' has no setting '{taken[0]}': that follows from the data and the recipe."
        )
    try:
        with torch.device("meta"), _Uninitialised():
            return create_network(name, classes=classes, shape=shape, space=space, seed=0, **settings)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError, AssertionError) as error:
        told = ", ".join(f"{k}={v!r}" for k, v in settings.items())
        raise DatastillError(f"network '{name}' cannot be built with {told or 'its defaults'}: {error}.") from error


class _Uninitialised(TorchFunctionMode):
    """Skips random initialisation: without memory there is nothing to fill, and the first try would load a compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _builder(name: str) -> Callable[..., Body]:
    library, colon, model = name.partition(":")
    if colon:
        from datastill.networks import adapters

        return adapters.builder(library, model)
    if name not in _builders:
        raise unknown("network", name, _builders)
    return _builders[name]
