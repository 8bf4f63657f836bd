"""The artifact: one folder, readable without the library, never executed.

`save -> load -> expand` is bit-identical. What a stranger's folder may claim is bounded and checked before it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from datastill.card import card
from datastill.errors import DatastillError, unknown
from datastill.fields import COLUMNS, Content, Expanded, Fields, Items, Labels, Pictures, resolve
from datastill.networks import Network, Space, create_network, sketch
from datastill.recipe import DatasetInfo, Recipe, TrainRecipe
from datastill.runtime.files import (
    load_arrays,
    read_json,
    save_arrays,
    sha256_file,
    write_atomic,
    write_bytes,
    write_json,
)
from datastill.settings import build
from datastill.sources import decode_picture, encode_picture

FORMAT = 1
MANIFEST, PICTURES, ITEMS, ARRAYS, CARD = (
    "manifest.json", "images.parquet", "items.parquet", "arrays.safetensors", "README.md"
)  # fmt: skip
LABELS = "labels/logits.safetensors"
LABEL_KINDS = {"H": "classes", "S": "logits", "D": "teachers"}
LARGEST = 4096  # pixels of a side, far above what a set is decoded to
KINDS = {PICTURES: "natural images", ITEMS: "items", ARRAYS: "compensators", LABELS: "labels"}


@dataclass
class DistilledDataset:
    """A distilled set: what is stored, and how it becomes what a student sees.

    recipe: what made it. info, classes: of the real set. content: sealed. labels: what students are told. facts: plain
    data for the manifest (source, versions, device, command, counts). teachers: networks that dynamic labels need.
    """

    recipe: Recipe
    info: DatasetInfo
    classes: tuple[str, ...]
    content: Content
    labels: Labels
    facts: dict[str, Any] = field(default_factory=dict)
    teachers: dict[str, Network] = field(default_factory=dict)
    folder: Path | None = None

    @cached_property
    def fields(self) -> Fields:
        """The recipe's choices as objects."""
        return resolve(self.recipe, self.info, run=False)

    def __len__(self) -> int:
        return len(self.content.items)

    def expand(self) -> Expanded:
        """Return every item: images uint8 or float[N, C, H, W] in [0, 1], classes long[N], and the labels."""
        images = self.fields.store.expand(self.content)
        return Expanded(images, self.content.items.cls, self.labels, len(self.classes))

    def loader(self, batch_size: int | None = None, *, seed: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return an ordinary DataLoader of (images, targets), one epoch each time that it is iterated.

        Images float32[B, C, H, W] in [0, 1], cropped, flipped and mixed as the recipe's student does; targets
        float32[B, K], mixed alike: probabilities where labels are classes, else logits (for a KL loss at the recipe's
        temperature). Every batch is full.

        Args:
            batch_size: B; None takes the recipe's.
            seed: of order and views; equal seeds give equal batches.
        """
        recipe = self.recipe.student if batch_size is None else replace(self.recipe.student, batch=batch_size)
        # A generator of its own: without one, a DataLoader draws from PyTorch's global state.
        return DataLoader(_Epochs(self, recipe, seed), batch_size=None, generator=torch.Generator())

    def ledger(self) -> dict[str, int]:
        """Return the bytes of a saved set as they lie on disk, by what they are for, with their total.

        Raises: DatastillError for a set that was not saved yet.
        """
        if self.folder is None:
            raise DatastillError("the ledger counts bytes on disk; save this set first, with save(folder).")
        counted = dict.fromkeys(["natural images", "compensators", "labels", "items", "teachers", "metadata"], 0)
        for name in [*self.facts["files"], MANIFEST]:
            kind = "teachers" if name.startswith("teachers/") else KINDS.get(name, "metadata")
            counted[kind] += (self.folder / name).stat().st_size
        return counted | {"total": sum(counted.values())}

    def save(self, folder: str | Path) -> Path:
        """Write the set into a folder. The manifest is written last: a folder with one is whole."""
        folder = Path(folder)
        (folder / MANIFEST).unlink(missing_ok=True)
        _write_pictures(folder / PICTURES, self.content.pictures, self.classes)
        columns = {name: pa.array(getattr(self.content.items, name).numpy(), pa.int32()) for name in COLUMNS}
        _write_table(folder / ITEMS, pa.table(columns), compression="zstd")
        written = [PICTURES, ITEMS]
        arrays = {f"store.{name}": value for name, value in self.content.arrays.items()}
        if arrays:
            save_arrays(folder / ARRAYS, arrays)
            written.append(ARRAYS)
        if self.labels.values is not None:
            save_arrays(folder / LABELS, {"label.logits": self.labels.values})
            written.append(LABELS)
        for i, name in enumerate(self.labels.teachers):
            path = f"teachers/{i}.safetensors"
            save_arrays(folder / path, dict(self.teachers[name].state_dict()), {"name": name})
            written.append(path)
        images = self.expand().images
        self.facts["expanded"] = {
            "shape": list(images.shape), "dtype": _dtype(images), "sha256": tensor_sha256(images)
        }  # fmt: skip
        write_bytes(folder / CARD, self._card().encode())
        files = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
            for name in [*written, CARD]
        }
        self.facts["files"] = files
        write_json(folder / MANIFEST, self._manifest())
        self.folder = folder
        return folder

    def _card(self) -> str:
        lossless = self.content.pictures.encoded is None
        return card(self.recipe, self.info, self.classes, self.facts, self.labels.kind, lossless=lossless)

    def _manifest(self) -> dict[str, Any]:
        pictures, arrays = self.content.pictures, self.content.arrays
        return self.facts | {
            "format": FORMAT,
            "recipe": self.recipe.plain(),
            "data": {
                "name": self.info.name,
                "classes": list(self.classes),
                "shape": list(self.info.shape),
                "train_images": self.info.train_images,
                "mean": list(self.info.mean),
                "std": list(self.info.std),
            },
            "pictures": {"count": len(pictures.cls), "codec": pictures.codec},
            "items": len(self.content.items),
            "arrays": {name: {"shape": list(a.shape), "dtype": _dtype(a)} for name, a in arrays.items()},
            "labels": {"kind": self.labels.kind, "teachers": list(self.labels.teachers)},
        }

    @classmethod
    def load(cls, folder: str | Path) -> DistilledDataset:
        """Read a folder that `save` wrote.

        Only files that the manifest names are opened, after their names, sizes and hashes were checked. Nothing in the
        folder is run.

        Raises: DatastillError, naming the file and the rule, for a folder that is not whole or not what it says.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise DatastillError(f"'{folder}' holds no distilled set: there is no {MANIFEST} in it.")
        manifest = read_json(folder / MANIFEST)
        try:
            return cls._read(folder, manifest)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise DatastillError(f"'{folder / MANIFEST}' is not a manifest of this format: {error!r}.") from error

    @classmethod
    def _read(cls, folder: Path, manifest: dict[str, Any]) -> DistilledDataset:
        if manifest["format"] != FORMAT:
            raise DatastillError(f"'{folder}' has format {manifest['format']}, but this version reads format {FORMAT}.")
        recipe = Recipe.from_plain(manifest["recipe"], f"'{folder / MANIFEST}'")
        classes = tuple(map(str, manifest["data"]["classes"]))
        info = _info(manifest["data"], len(classes), folder)
        column = resolve(recipe, info, run=False).label.column
        kind, teachers = manifest["labels"]["kind"], tuple(manifest["labels"]["teachers"])
        if kind != LABEL_KINDS[column]:
            raise DatastillError(f"'{folder}' says that its labels are {kind!r}, which its recipe does not make.")
        weights = {name: f"teachers/{i}.safetensors" for i, name in enumerate(teachers)}
        needed = [PICTURES, ITEMS, *weights.values()]
        needed += [ARRAYS] * bool(manifest["arrays"]) + [LABELS] * (kind == "logits")
        check_files(folder, manifest["files"], needed)
        pictures = _read_pictures(folder / PICTURES, manifest["pictures"], info)
        arrays = _read_arrays(folder / ARRAYS, manifest["arrays"], "store.") if manifest["arrays"] else {}
        high = {"cls": len(classes), "maker": len(recipe.networks), "unit": max(map(len, arrays.values()), default=0),
                "picture": len(pictures.cls)}  # fmt: skip
        items = _read_items(folder / ITEMS, int(manifest["items"]), high)
        values = None
        if kind == "logits":
            wanted = {"logits": {"shape": [len(items), len(classes)], "dtype": "float16"}}
            values = _read_arrays(folder / LABELS, wanted, "label.")["logits"]
        networks = {name: _read_teacher(folder / path, recipe, name, info) for name, path in weights.items()}
        own = ("format", "recipe", "data", "pictures", "items", "arrays", "labels")
        facts = {k: v for k, v in manifest.items() if k not in own}
        made = cls(recipe, info, classes, Content(items, pictures, arrays), Labels(kind, values, teachers), facts,
                   networks, folder)  # fmt: skip
        if tensor_sha256(made.expand().images) != facts["expanded"]["sha256"]:
            raise DatastillError(
                f"'{folder}' expands to other pixels than its manifest says; its files were changed, or this machine's "
                "image decoder differs from the one that made it."
            )
        return made


class _Epochs(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of a distilled set; each iteration is the next epoch."""

    def __init__(self, distilled: DistilledDataset, recipe: TrainRecipe, seed: int) -> None:
        self.distilled, self.recipe, self.seed = distilled, recipe, seed
        self.expanded, self.epoch = distilled.expand(), 0

    def __len__(self) -> int:
        return self.recipe.work(len(self.expanded.images)).epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        work = self.recipe.work(len(self.expanded.images))
        first = self.epoch * work.epoch
        self.epoch += 1
        batches = self.distilled.fields.label.supply(
            self.expanded, replace(work, steps=first + work.epoch), self.recipe, self.seed,
            device=torch.device("cpu"), start=first, teachers=self.distilled.teachers,
        )  # fmt: skip
        for batch in batches:
            yield batch.x, batch.target


def tensor_sha256(x: Tensor) -> str:
    """Return the SHA-256 of a tensor's values in C order."""
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], needed: Iterable[str] = ()) -> None:
    """Check that the needed files are named, and that every named file lies inside with the size and hash claimed."""
    for name in needed:
        if name not in files:
            raise DatastillError(f"the manifest of '{folder}' does not name '{name}', which its other entries need.")
    inside = folder.resolve()
    for name, claim in files.items():
        path = folder / name
        if Path(name).is_absolute() or not path.resolve().is_relative_to(inside):
            raise DatastillError(f"the manifest of '{folder}' names '{name}', which lies outside it; nothing was read.")
        if not path.is_file():
            raise DatastillError(f"'{path}' is named in the manifest but is not there.")
        if path.stat().st_size != claim["bytes"]:
            raise DatastillError(f"'{path}' has {path.stat().st_size} bytes, but the manifest says {claim['bytes']}.")
        if sha256_file(path) != claim["sha256"]:
            raise DatastillError(f"'{path}' is not the file that the manifest describes: its SHA-256 differs.")


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _write_table(path: Path, table: pa.Table, compression: str) -> None:
    write_atomic(path, lambda part: pq.write_table(table, part, compression=compression))


def _write_pictures(path: Path, pictures: Pictures, classes: tuple[str, ...]) -> None:
    files = pictures.encoded or [encode_picture(p.numpy(), cast(Any, pictures.codec)) for p in pictures.pixels]
    labels = pictures.cls.tolist()
    names = [f"{i:06d}.{pictures.codec}" for i in range(len(labels))]
    feature = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(classes)},
               "id": {"_type": "Value", "dtype": "string"}}  # fmt: skip
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64()),
         ("id", pa.string())],
        metadata={"huggingface": json.dumps({"info": {"features": feature}})},
    )  # fmt: skip
    columns = {"image": [{"bytes": b, "path": n} for b, n in zip(files, names, strict=True)],
               "label": labels, "id": list(pictures.ids)}  # fmt: skip
    _write_table(path, pa.table(columns, schema=schema), compression="none")


def _info(data: Mapping[str, Any], classes: int, folder: Path) -> DatasetInfo:
    mistakes: list[str] = []
    claimed = {k: v for k, v in data.items() if k != "classes"} | {"classes": classes}
    info = build(DatasetInfo, claimed, "data", mistakes)
    if not mistakes and (info.shape[0] not in (1, 3) or min(info.shape) < 1 or max(info.shape) > LARGEST):
        mistakes.append(f"images of shape {info.shape} are not supported.")
    if not mistakes and {len(info.mean), len(info.std)} != {info.shape[0]}:
        mistakes.append("there must be one mean and one deviation per channel.")
    if mistakes:
        raise DatastillError(f"'{folder / MANIFEST}': " + " ".join(mistakes))
    return cast(DatasetInfo, info)


def _read_table(path: Path, rows: int, columns: Sequence[str]) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows != rows:
            raise DatastillError(f"'{path}' has {file.metadata.num_rows} rows, but the manifest says {rows}.")
        table = file.read(columns=list(columns))
        table.validate(full=True)
        if any(column.null_count for column in table.columns):
            raise DatastillError(f"'{path}' has empty cells.")
    except (pa.ArrowException, OSError) as error:
        raise DatastillError(f"'{path}' is not a readable Parquet file: {error}.") from error
    return table


def _read_pictures(path: Path, claim: Mapping[str, Any], info: DatasetInfo) -> Pictures:
    table = _read_table(path, int(claim["count"]), ("image", "label", "id"))
    labels = torch.tensor(table["label"].to_numpy(), dtype=torch.long)
    _check_range(path, "label", labels, 0, info.classes)
    codec = claim["codec"]
    if codec not in ("webp", "png", "jpeg"):
        raise unknown("codec of pictures", str(codec), ("webp", "png", "jpeg"))
    files = [row["bytes"] for row in table["image"].to_pylist()]
    pixels = torch.empty((len(files), *info.shape), dtype=torch.uint8)
    for i, data in enumerate(files):
        area = info.shape[1] * info.shape[2]
        planes = decode_picture(data, f"{path}: picture {i}", max_pixels=area, formats=[codec.upper()])
        if planes.shape != info.shape:
            raise DatastillError(f"'{path}': picture {i} is {planes.shape}, but the manifest says {info.shape}.")
        pixels[i] = torch.tensor(planes)
    kept = tuple(files) if codec == "jpeg" else None
    return Pictures(pixels, labels, tuple(table["id"].to_pylist()), codec, kept)


def _read_items(path: Path, count: int, high: Mapping[str, int]) -> Items:
    table = _read_table(path, count, COLUMNS)
    columns = {name: torch.from_numpy(np.array(table[name].to_numpy(), dtype=np.int64)) for name in COLUMNS}
    for name, values in columns.items():
        _check_range(path, name, values, -1 if name in ("maker", "unit", "picture") else 0, high.get(name, 1 << 31))
    return Items.of(**columns)


def _check_range(path: Path, name: str, values: Tensor, low: int, high: int) -> None:
    if len(values) and not (low <= int(values.min()) and int(values.max()) < high):
        raise DatastillError(f"'{path}' has values of '{name}' outside {low}..{high - 1}.")


def _read_arrays(path: Path, claims: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, Tensor]:
    arrays = {name.removeprefix(prefix): value for name, value in load_arrays(path).items()}
    found = {name: {"shape": list(a.shape), "dtype": _dtype(a)} for name, a in arrays.items()}
    wanted = {name: {"shape": list(c["shape"]), "dtype": c["dtype"]} for name, c in claims.items()}
    if found != wanted:
        raise DatastillError(f"'{path}' holds {found}, but the manifest says {wanted}.")
    return arrays


def _read_teacher(path: Path, recipe: Recipe, name: str, info: DatasetInfo) -> Network:
    made = recipe.networks[name]
    space = Space(info.mean, info.std)
    # The weights come from the folder: what a stranger's recipe calls pretrained must not be fetched to open it.
    settings = {k: v for k, v in made.settings.items() if k != "pretrained"}
    arrays = load_arrays(path)
    # Compared without memory for the weights: a recipe may claim a network of any width.
    claimed = sketch(made.arch, classes=info.classes, shape=info.shape, settings=settings)
    shapes = {k: tuple(v.shape) for k, v in claimed.state_dict().items()}
    if {k: tuple(v.shape) for k, v in arrays.items()} != shapes:
        raise DatastillError(f"'{path}' does not hold the weights of a network '{made.arch}' of this recipe.")
    network = create_network(made.arch, classes=info.classes, shape=info.shape, space=space, seed=made.seed, **settings)
    network.load_state_dict(arrays)
    return network.requires_grad_(False).eval()
