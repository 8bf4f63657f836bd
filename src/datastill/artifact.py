"""The artifact: one folder, readable without the library, never executed.

`save -> load -> expand` is bit-identical. What a stranger's folder may claim is bounded and checked before it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from datastill.card import card
from datastill.codecs import LabelCodec, PictureCodec, decode_labels, decoder, encode_labels
from datastill.errors import DatastillError
from datastill.fields import Content, Expanded, Fields, FixedBoxes, Label, Labels, Records, SeededViews, resolve
from datastill.layout import (
    ATLASES,
    ITEMS,
    PICTURES,
    RECORDS,
    atlas_names,
    read_codec,
    read_items,
    read_pictures,
    read_records,
    record_names,
    write_items,
    write_pictures,
    write_records,
)
from datastill.networks import Network, Space, create_network, sketch
from datastill.recipe import DatasetInfo, Recipe, TrainRecipe
from datastill.runtime.files import (
    load_arrays,
    read_json,
    save_arrays,
    sha256_file,
    write_bytes,
    write_json,
)
from datastill.settings import build, plain
from datastill.training.supply import scale_of

FORMAT = 2
MANIFEST, ARRAYS, CARD = "manifest.json", "arrays.safetensors", "README.md"
LABELS = "labels/logits.safetensors"
LARGEST = 4096  # pixels of a side, far above what a set is decoded to
KINDS = {ITEMS: "items", LABELS: "labels"}  # what bytes are counted as; of pictures and arrays, the store says it
FOLDERS = {RECORDS: "labels", "teachers": "teachers"}


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
        return Expanded(images, self.content.items.cls, self.labels, len(self.classes), scale_of(self.info))

    def loader(self, batch_size: int | None = None, *, seed: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return an ordinary DataLoader of (images, targets), one epoch each time that it is iterated.

        Images float32[B, C, H, W] in [0, 1], cropped, flipped and mixed as the recipe's student does; targets
        float32[B, K], mixed alike: probabilities where labels are classes, else logits (for a KL loss at the recipe's
        temperature). Every batch is full; under label 'dense' one of pairs holds 2 B pictures.

        Args:
            batch_size: B; None takes the recipe's.
            seed: of order and views; equal seeds give equal batches.

        Raises: DatastillError for labels whose pictures count differently, or are told in two ways.
        """
        if not self.fields.label.even:
            raise DatastillError(
                "the pictures of this set's batches do not all count alike, or are told in two ways, which images and "
                "targets alone cannot say; take batches from fields.label.supply, or label it with label.weight=1 and "
                "label.own as label.local."
            )
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
        pictures, arrays = self.fields.store.kinds
        kinds = KINDS | FOLDERS | {PICTURES: pictures, ATLASES: pictures, ARRAYS: arrays}
        for name in [*self.facts["files"], MANIFEST]:
            kind = kinds.get(name) or kinds.get(name.partition("/")[0], "metadata")
            counted[kind] = counted.get(kind, 0) + (self.folder / name).stat().st_size
        return counted | {"total": sum(counted.values())}

    def save(self, folder: str | Path) -> Path:
        """Write the set into a folder. The manifest is written last: a folder with one is whole."""
        folder = Path(folder)
        (folder / MANIFEST).unlink(missing_ok=True)
        written = [*write_pictures(folder, self.content.pictures, self.classes), ITEMS]
        write_items(folder / ITEMS, self.content.items)
        arrays = {f"store.{name}": value for name, value in self.content.arrays.items()}
        if arrays:
            save_arrays(folder / ARRAYS, arrays)
            written.append(ARRAYS)
        if self.labels.values is not None:
            assert self.labels.views == self.fields.label.rendering(self.recipe), "views are those of the recipe"
            save_arrays(folder / LABELS, {f"label.{name}": value for name, value in _stored(self.labels).items()})
            written.append(LABELS)
        if self.labels.records is not None:
            written += write_records(folder, self.labels.records)
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
        made, own = bool(self.content.arrays), self.fields.store.told(self.content)
        return card(
            self.recipe, self.info, self.classes, self.facts, self.labels, self.content.pictures, made=made, own=own
        )

    def _manifest(self) -> dict[str, Any]:
        pictures, arrays, labels = self.content.pictures, self.content.arrays, self.labels
        coded = {"codec": plain(labels.codec)} if labels.kind in ("logits", "replayed") else {}
        seen = {"views": plain(labels.views)} if labels.views is not None else {}
        if labels.records is not None:
            seen = {"records": plain(labels.records.recording) | {"per_file": labels.records.per_file}}
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
            "pictures": {
                "count": len(pictures.cls),
                "codec": plain(pictures.codec),
                "decoder": decoder(pictures.codec),
            },
            "items": len(self.content.items),
            "arrays": {name: {"shape": list(a.shape), "dtype": _dtype(a)} for name, a in arrays.items()},
            "labels": {"kind": labels.kind, "teachers": list(labels.teachers)} | coded | seen,
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
            raise DatastillError(
                f"'{folder}' has format {manifest['format']}, but this version reads format {FORMAT}; distil it again "
                "from its recipe, or open it with the version that its manifest names."
            )
        recipe = Recipe.from_plain(manifest["recipe"], f"'{folder / MANIFEST}'")
        classes = tuple(map(str, manifest["data"]["classes"]))
        info = _info(manifest["data"], len(classes), folder)
        label = resolve(recipe, info, run=False).label
        kind, teachers = manifest["labels"]["kind"], tuple(manifest["labels"]["teachers"])
        if kind != label.kind:
            raise DatastillError(f"'{folder}' says that its labels are {kind!r}, which its recipe does not make.")
        weights = {name: f"teachers/{i}.safetensors" for i, name in enumerate(teachers)}
        count = int(manifest["pictures"]["count"])
        codec = read_codec(PictureCodec, manifest["pictures"]["codec"], str(folder / MANIFEST))
        needed = [PICTURES, ITEMS, *weights.values()]
        needed += [ARRAYS] * bool(manifest["arrays"]) + [LABELS] * (kind == "logits")
        recorded = _recorded(manifest["labels"]["records"]) if kind == "replayed" else ()
        check_files(folder, manifest["files"], chain(needed, atlas_names(codec, count), recorded))
        pictures = read_pictures(folder, codec, count, info)
        arrays = _read_arrays(folder / ARRAYS, manifest["arrays"], "store.") if manifest["arrays"] else {}
        high = {"cls": len(classes), "maker": len(recipe.networks), "unit": max(map(len, arrays.values()), default=0),
                "picture": len(pictures.cls)}  # fmt: skip
        items = read_items(folder / ITEMS, int(manifest["items"]), high)
        labels = Labels(kind, None, teachers)
        if kind == "logits":
            labels = _read_labels(folder, manifest["labels"], label.rendering(recipe), len(items), len(classes))
        elif kind == "replayed":
            labels = _read_replayed(folder, manifest["labels"], label, recipe, len(items), info)
        networks = {name: _read_teacher(folder / path, recipe, name, info) for name, path in weights.items()}
        own = ("format", "recipe", "data", "pictures", "items", "arrays", "labels")
        facts = {k: v for k, v in manifest.items() if k not in own}
        made = cls(recipe, info, classes, Content(items, pictures, arrays), labels, facts, networks, folder)
        if tensor_sha256(made.expand().images) != facts["expanded"]["sha256"]:
            raise DatastillError(_differs(folder, manifest["pictures"]["decoder"], decoder(codec)))
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


def _differs(folder: Path, then: Mapping[str, Any], now: Mapping[str, str]) -> str:
    """Return the sentence for a set whose pixels are not those of its manifest."""
    said, here = (", ".join(f"{name} {version}" for name, version in each.items()) for each in (then, now))
    why = (
        f"its files were changed, for the decoder is the one that made it ({here}); get it again, or distil it again"
        if dict(then) == dict(now)
        else f"it was made with the decoder {said}, and here is {here}; install those versions, or distil it again"
    )
    return f"'{folder}' expands to other pixels than its manifest says: {why}."


def _stored(labels: Labels) -> dict[str, Tensor]:
    """Return the arrays of soft labels, which must decode to exactly what was looked at."""
    assert labels.values is not None, "only soft labels are stored"
    arrays = encode_labels(labels.values, labels.codec) if labels.arrays is None else labels.arrays
    rows, classes = labels.values.shape
    decoded = decode_labels(arrays, rows, classes, labels.codec)
    # Close, since a matrix product may run in another order under another number of threads.
    assert torch.allclose(decoded, labels.values.float()), "labels are coded before they are looked at"
    return arrays


def _read_labels(
    folder: Path, claim: Mapping[str, Any], views: SeededViews | FixedBoxes | None, items: int, classes: int
) -> Labels:
    made = None if views is None else plain(views)
    if claim.get("views") != made:
        raise DatastillError(
            f"'{folder / MANIFEST}' says that its labels belong to the views {claim.get('views')}, but its recipe "
            f"makes labels of the views {made}."
        )
    codec = read_codec(LabelCodec, claim["codec"], str(folder / MANIFEST))
    rows = items * (1 if views is None else views.count)
    arrays = {name.removeprefix("label."): value for name, value in load_arrays(folder / LABELS).items()}
    values = decode_labels(arrays, rows, classes, codec, str(folder / LABELS))
    return Labels("logits", values, (), codec, arrays, views=views)


def _recorded(claim: Mapping[str, Any]) -> Iterator[str]:
    """Return the names of the files of recorded batches."""
    count, per_file = int(claim["count"]), int(claim["per_file"])
    if min(count, per_file) < 1:
        raise ValueError(f"{count} recorded batches, {per_file} in a file")
    return record_names(count, per_file)


def _read_replayed(
    folder: Path, claim: Mapping[str, Any], label: Label, recipe: Recipe, items: int, info: DatasetInfo
) -> Labels:
    """Read labels of recorded batches, which must be those that the recipe records."""
    said, made = dict(claim["records"]), label.recording(recipe, items)
    per_file = said.pop("per_file")
    if made is None or said != plain(made):
        raise DatastillError(
            f"'{folder / MANIFEST}' says that its labels belong to the recorded batches {said}, but its recipe records "
            f"{None if made is None else plain(made)}."
        )
    codec = read_codec(LabelCodec, claim["codec"], str(folder / MANIFEST))
    labels = Labels("replayed", codec=codec, records=Records(made, int(per_file), ()))
    return read_records(folder, labels, recipe.student, items, info)


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
