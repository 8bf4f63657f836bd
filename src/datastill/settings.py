"""Frozen dataclasses from plain data: every mistake is found, at once, and said with its path."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from datastill.errors import suggestion


def setting(
    default: Any = dataclasses.MISSING, *, low: float | None = None, high: float | None = None, help: str = ""
) -> Any:
    """Declare a setting with its default, its closed range (of each number in a tuple) and one sentence of help."""
    metadata = {"low": low, "high": high, "help": help}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type, data: Any, path: str, mistakes: list[str]) -> Any:
    """Make an instance of dataclass `cls` from a mapping, or return None after noting what is wrong with it.

    Args:
        cls: a dataclass whose annotations are numbers, strings, booleans, Literals, tuples, dicts or dataclasses.
        data: the mapping, as YAML or JSON gives it.
        path: where the mapping stands in the recipe, for messages ("" at the top).
        mistakes: sentences are appended here.
    """
    if not isinstance(data, Mapping):
        mistakes.append(f"'{path or 'the recipe'}' must be a mapping, not {_shown(data)}.")
        return None
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    before = len(mistakes)
    for name in data:
        if name not in fields:
            asked = _join(path, str(name))
            mistakes.append(f"there is no setting '{asked}'{suggestion(asked, [_join(path, f) for f in fields])}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = convert(hints[name], _completed(field.default, data[name]), _join(path, name), mistakes)
            _check_range(field, values[name], _join(path, name), mistakes)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            mistakes.append(f"the setting '{_join(path, name)}' is missing.")
    return cls(**values) if len(mistakes) == before else None


def _completed(default: Any, value: Any) -> Any:
    """Return settings of a setting with what is not said filled in from the default of the outer one."""
    if isinstance(value, Mapping) and dataclasses.is_dataclass(default) and not hasattr(default, "parse"):
        return {f.name: getattr(default, f.name) for f in dataclasses.fields(default)} | dict(value)
    return value


def convert(hint: Any, value: Any, path: str, mistakes: list[str]) -> Any:
    """Return `value` as the annotation `hint` wants it, or note a mistake and return None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        return convert(inner[0], value, path, mistakes)
    if origin is typing.Literal:
        return _literal(arguments, value, path, mistakes)
    if origin is tuple:
        return _tuple(arguments, value, path, mistakes)
    if origin is dict:
        if not isinstance(value, Mapping):
            mistakes.append(f"'{path}' must be a mapping, not {_shown(value)}.")
            return None
        return {str(k): convert(arguments[1], v, _join(path, str(k)), mistakes) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]  # a class, as is_dataclass says of it
            return value
        maker = getattr(hint, "parse", None)
        return maker(value, path, mistakes) if maker else build(typing.cast(type, hint), value, path, mistakes)
    return _plain(hint, value, path, mistakes)


def _literal(arguments: tuple[Any, ...], value: Any, path: str, mistakes: list[str]) -> Any:
    if type(value) is int and str(value) in arguments:  # YAML reads 444 as a number
        value = str(value)
    if value not in arguments or isinstance(value, bool) != isinstance(arguments[0], bool):
        mistakes.append(f"'{path}' is {_shown(value)}{suggestion(str(value), map(str, arguments))}")
    return value


def _tuple(hints: tuple[Any, ...], value: Any, path: str, mistakes: list[str]) -> tuple[Any, ...] | None:
    if not isinstance(value, (list, tuple)):
        mistakes.append(f"'{path}' must be a list, not {_shown(value)}.")
        return None
    inner = list(hints[:1]) * len(value) if hints[-1] is Ellipsis else list(hints)
    if len(inner) != len(value):
        mistakes.append(f"'{path}' must hold {len(inner)} values, not {len(value)}.")
        return None
    return tuple(convert(h, v, f"{path}[{i}]", mistakes) for i, (h, v) in enumerate(zip(inner, value, strict=True)))


def _plain(hint: Any, value: Any, path: str, mistakes: list[str]) -> Any:
    if hint is Any:
        return value
    if hint is float:
        number = _finite(value)
        if number is not None:
            return number
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(hint, str(hint))
    mistakes.append(f"'{path}' must be {wanted}, not {_shown(value)}.")
    return None


def _finite(value: Any) -> float | None:
    """Return a number, or a text that is one (YAML 1.1 reads 1e-3 as a text), as a finite float; else None."""
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _check_range(field: dataclasses.Field[Any], value: Any, path: str, mistakes: list[str]) -> None:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if isinstance(value, tuple):
        for i, each in enumerate(value):
            _check_range(field, each, f"{path}[{i}]", mistakes)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        span = f"at least {low}" if high is None else f"at most {high}" if low is None else f"between {low} and {high}"
        mistakes.append(f"'{path}' must be {span}, not {value}.")


def plain(value: Any) -> Any:
    """Return dataclasses, tuples and mappings as dicts and lists, ready for YAML and JSON."""
    own = getattr(value, "plain", None)
    if own is not None and dataclasses.is_dataclass(value):
        return own()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def chosen(value: Any) -> Any:
    """Return what `plain` returns, without the settings that stand at their defaults.

    A hash of it stays the same when a later version adds a setting whose default means what was done before.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {f.name: chosen(kept[f.name]) for f in dataclasses.fields(value) if kept[f.name] != _default(f)}
    if isinstance(value, Mapping):
        return {str(k): chosen(v) for k, v in value.items()}
    return plain(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = str(value) if len(str(value)) <= 60 else f"{str(value)[:57]}..."
    return f"'{text}'" if isinstance(value, str) else f"{type(value).__name__} '{text}'"
