"""Data sets from the Hugging Face Hub, through the optional `datasets` library."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np

from datastill.errors import DatastillError
from datastill.sources.listing import Listing, Opener
from datastill.sources.parquet import IMAGE_COLUMNS, LABEL_COLUMNS, TEST_NAMES

INSTALL = 'pip install "datastill[hub]"'


def hub_installed() -> bool:
    """Tell whether the `datasets` library is there, without importing it."""
    return importlib.util.find_spec("datasets") is not None


def list_hub(
    repository: str,
    name: str,
    origin: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    label: str | None = None,
) -> Listing:
    """Download (once; the library keeps its own cache) and list a data set of the Hub.

    Args:
        repository: OWNER/NAME.
        name: of the data set.
        origin: how to load it again.
        config: configuration of the repository; None for its only or default one.
        revision: branch, tag or commit; None for the newest.
        label: label column; None for the usual names.

    Raises: DatastillError when the library is missing, the download fails, or the columns are not there.
    """
    if not hub_installed():
        raise DatastillError(f"'{origin}' comes from the Hugging Face Hub, which needs {INSTALL}{_or_own_files(name)}.")
    import datasets

    try:
        found = datasets.load_dataset(repository, config, revision=revision)
    except Exception as error:  # network, permissions and formats: the library raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DatastillError(
            f"'{repository}' could not be had from the Hugging Face Hub: {reason}; check the name and the network"
            f"{_or_own_files(name)}."
        ) from error
    splits = dict(found)
    train_name = "train" if "train" in splits else next(iter(splits))
    test_name = next((one for one in TEST_NAMES if one in splits and one != train_name), None)
    tables = [(train_name, splits[train_name]), *([(test_name, splits[test_name])] if test_name else [])]
    aside = [one for one in splits if one not in (train_name, test_name)]
    image, label = _columns(tables[0][1], repository, label)
    raw = [(split, table.cast_column(image, datasets.Image(decode=False))) for split, table in tables]
    classes = getattr(raw[0][1].features[label], "names", None) or [str(v) for v in sorted(set(raw[0][1][label]))]

    def stream() -> Iterator[Opener]:
        return (_opener(row[image]) for _, table in raw for row in table.select_columns([image]))

    return Listing(
        name=name,
        origin=origin,
        classes=tuple(classes),
        ids=tuple(f"{split}/{row}" for split, table in raw for row in range(len(table))),
        labels=np.concatenate(
            [_numbered(table[label], table.features[label], classes, repository) for _, table in raw]
        ),
        testing=np.repeat([False, True][: len(raw)], [len(table) for _, table in raw]) if test_name else None,
        stream=stream,
        key=["hub", repository, config, revision, image, label, [table._fingerprint for _, table in raw]],
        notes=(f"Left aside: {', '.join(aside)}.",) if aside else (),
    )


def _or_own_files(name: str) -> str:
    return "" if "/" in name else f", or set DATASTILL_DATA to a folder that holds {name}/train.parquet"


def _columns(table: Any, repository: str, label: str | None) -> tuple[str, str]:
    labels = (label,) if label else LABEL_COLUMNS
    for what, names in (("image", IMAGE_COLUMNS), ("label", labels)):
        if not any(name in table.column_names for name in names):
            raise DatastillError(
                f"'{repository}' has no {what} column ({' or '.join(names)}); "
                f"its columns are {', '.join(table.column_names)}."
            )
    return next(n for n in IMAGE_COLUMNS if n in table.column_names), next(n for n in labels if n in table.column_names)


def _numbered(values: Any, feature: Any, classes: list[str], repository: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    if getattr(feature, "names", None) is None:
        index = {name: label for label, name in enumerate(classes)}
        values = [index.get(str(value), -1) for value in values]
    labels = np.asarray(values, np.int64)
    if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
        raise DatastillError(
            f"'{repository}' has labels outside its {len(classes)} classes; it cannot be used as it is."
        )
    return labels


def _opener(image: dict[str, Any]) -> Opener:
    return lambda: image["bytes"] or b""
