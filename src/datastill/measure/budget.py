"""A number of bytes to spend: how many images, how coarse and with which labels, chosen on held-out training images."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datastill.codecs import PictureCodec, picture_problems
from datastill.engine import distil
from datastill.errors import DatastillError, unknown
from datastill.fields import Real, resolve
from datastill.measure.arms import Arm
from datastill.measure.filling import filled
from datastill.measure.law import Law
from datastill.measure.rows import Bench, scored_on, train_students, trained
from datastill.recipe import Choice, Recipe, choice, compose
from datastill.runtime.device import Device
from datastill.runtime.files import read_json
from datastill.runtime.progress import Reporter
from datastill.settings import plain
from datastill.sources import Dataset

TILES = 1024
QUALITIES = (30, 45, 60, 75)
METHOD = "datastill"
LABELS: dict[str, Choice] = {"hard": choice("hard"), "soft": choice("static", codec={"kind": "int4"})}
STUDENT = "convnet(width=32)"
FEWER = 4  # the law is fitted to sets of as many images as fit, and to a quarter of them
HELD_OUT = 10  # one training image in so many is held out while choosing
STEPS = 3000
DECIDED = ("ipc", "store", "label", "validation")
ALONE = "--budget chooses the method and the number of images; give it without --method, --ipc and --recipe."
DIRECTORY = 4096  # bytes of a small directory on most disks
TIMES = 32  # digits of the times of labels: they differ from run to run
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def read_bytes(text: str) -> int:
    """Read `4MB`, `20 kB`, `1.5MiB` or `4000000`. Raises: DatastillError for anything else, or less than a byte."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].upper() not in UNITS:
        raise DatastillError(f"--budget wants a number of bytes, such as 4MB or 20kB, not '{text}'.")
    size = int(float(match[1]) * UNITS[match[2].upper()])
    if size < 1:
        raise DatastillError(f"--budget must be at least a byte, not '{text}'.")
    return size


@dataclass(frozen=True)
class Trial:
    """What a set of so many images under a codec and a kind of label was worth to the small student."""

    codec: PictureCodec
    label: str
    images: int
    per_image: float
    top1: float

    def __str__(self) -> str:
        return f"{self.images:,} images as {named(self.codec)} with {self.label} labels: {self.top1:.1f} %"


@dataclass(frozen=True)
class Chosen:
    """What a budget buys. recipe: to be distilled. says: three lines, what was chosen and why."""

    recipe: Recipe
    says: tuple[str, str, str]
    trials: tuple[Trial, ...]


def named(codec: PictureCodec) -> str:
    """Return a codec in words."""
    return f"{codec.format} at quality {codec.quality}" if not codec.lossless else codec.format


@dataclass
class Budget:
    """A search under way: the bytes, the real set, a recipe to start from, and the steps of whoever will train.

    recipe: of the preset `datastill`; its student recipe and, for soft labels, its networks are used. labels: "hard",
    and "soft" if these are to be tried too, which trains the networks. seeds: students per trial.
    """

    size: int
    dataset: Dataset
    recipe: Recipe
    steps: int
    device: Device
    reporter: Reporter
    labels: tuple[str, ...] = ("hard",)
    seeds: int = 1
    jobs: int = 1
    command: str = ""
    source: Mapping[str, Any] | None = None

    def choose(self) -> Chosen:
        """Return what the budget buys.

        Every codec is tried on held-out training images with as many images as it makes room for, and with a quarter
        of them; a law `error = floor + A n^-a + B L^-b` of n images of L bytes (arXiv 2407.17954) is fitted to that,
        and the quality that it expects most of is tried as well. The best trial wins. Soft labels, if asked for, are
        tried on its codec, with as many images as fit beside them.

        Raises: DatastillError for a recipe of another method, or one that sets what the budget decides, for unknown
            labels, and for a budget that cannot hold one image per class, naming the smallest that can.
        """
        lossless = PictureCodec(format="webp-lossless", tiles=TILES)
        self._check(lossless)
        all_images = len(Real(self.dataset).rows)
        if self._predicted(lossless, "hard", all_images) <= self.size:
            whole = self._weigh(lossless, "hard", all_images)
            if whole <= self.size:
                return self._whole(lossless, all_images, whole)
        self._refuse_too_small()
        with tempfile.TemporaryDirectory() as folder:
            trials = self._trials(Path(folder))
        best = max(trials, key=lambda t: t.top1)
        images = self._fill(best.codec, best.label)
        recipe = self._recipe(best.codec, best.label, images)
        return Chosen(recipe, self._says(best, images, trials), tuple(trials))

    def _check(self, codec: PictureCodec) -> None:
        """Refuse what cannot be, before any work."""
        if self.recipe.method != METHOD:
            raise DatastillError(ALONE)
        preset = compose(METHOD, self.dataset.info)
        for name in DECIDED:
            if getattr(self.recipe, name) != getattr(preset, name):
                raise DatastillError(f"--budget decides {', '.join(DECIDED)}; leave out what sets '{name}'.")
        for label in self.labels:
            if label not in LABELS:
                raise unknown("label to try", label, LABELS)
        if "hard" not in self.labels:
            raise DatastillError("--labels: hard labels are always tried; ask for hard, or for hard,soft.")
        if self.steps < 1:
            raise DatastillError(f"--steps must be at least 1, not {self.steps}.")
        for label in self.labels:
            resolve(self._recipe(codec, label, len(self.dataset.classes)), self.dataset.info)

    def _held(self) -> Recipe:
        """Return the recipe that holds images out for choosing, of no class more than half."""
        classes = len(self.dataset.classes)
        counts = self.dataset.train.labels.bincount(minlength=classes)
        if int(counts.min()) < 2:
            raise DatastillError(
                f"--budget holds an image of each class out to choose on, but class "
                f"'{self.dataset.classes[int(counts.argmin())]}' has one training image in all; add some, or leave the "
                "class out with --classes."
            )
        count = max(classes, len(self.dataset.train) // HELD_OUT)
        return replace(self.recipe, validation=min(count, classes * (int(counts.min()) // 2)))

    def _recipe(self, codec: PictureCodec, label: str, images: int, base: Recipe | None = None) -> Recipe:
        store = choice("coded", codec=plain(codec), total=images)
        nominal = -(-images // len(self.dataset.classes))
        # Nobody asks networks for hard labels of random images, and their table would be bytes of the manifest.
        asked = label != "hard" or self.recipe.select.kind != "random"
        unasked: dict[str, Any] = {} if asked else {"networks": {}}
        patch = {"store": store, "label": LABELS[label], "ipc": nominal} | unasked
        return (base or self.recipe).patched(patch)

    def _weigh(self, codec: PictureCodec, label: str, images: int, base: Recipe | None = None) -> int:
        """Return every byte of the folder of such a set."""
        with tempfile.TemporaryDirectory() as folder:
            out, recipe = Path(folder) / "set", self._recipe(codec, label, images, base)
            distil(
                self.dataset, recipe, device=self.device, reporter=Reporter(), out=out, command=self.command,
                source=self.source,
            )  # fmt: skip
            return folder_bytes(out) + (TIMES if label == "soft" else 0)

    def _line(self, codec: PictureCodec, label: str, base: Recipe) -> tuple[float, float]:
        """Return bytes of a set without images, and bytes per image, from two weighings."""
        classes, rows = len(self.dataset.classes), len(Real(self.dataset, base.validation, base.seed).rows)
        few, many = classes, min(rows, max(2 * classes, 512))
        low = self._weigh(codec, label, few, base)
        if many <= few:
            return 0.0, low / few
        slope = (self._weigh(codec, label, many, base) - low) / (many - few)
        return low - slope * few, max(slope, 1e-3)

    def _predicted(self, codec: PictureCodec, label: str, images: int) -> float:
        fixed, slope = self._line(codec, label, self.recipe)
        return fixed + slope * images

    def _refuse_too_small(self) -> None:
        classes = len(self.dataset.classes)
        needed = self._weigh(self._codec(min(QUALITIES)), "hard", classes)
        if needed > self.size:
            # In full hundreds, with room for a longer number in the command that the manifest records.
            enough = -(-(needed + 16) // 100) * 100
            raise DatastillError(
                f"--budget of {self.size:,} bytes cannot hold one image of each of {classes} classes; the smallest "
                f"that can, in full hundreds, is {enough:,} bytes."
            )

    def _codec(self, quality: int) -> PictureCodec:
        codec = PictureCodec(format="avif", quality=quality, tiles=TILES)
        if picture_problems(codec, self.dataset.shape):  # a Pillow without AVIF: the next best that every one has
            return PictureCodec(format="webp", quality=quality, chroma="420", tiles=TILES)
        return codec

    def _room(self, codec: PictureCodec, label: str, rows: int) -> tuple[PictureCodec, str, int, float] | None:
        """Return a codec with as many of `rows` images as fit, and bytes of each; None where no set of it fits."""
        classes = len(self.dataset.classes)
        if self._weigh(codec, label, classes) > self.size:
            return None
        fixed, slope = self._line(codec, label, self._held())
        return codec, label, int(min(rows, max(classes, (self.size - fixed) // slope))), slope

    def _trials(self, folder: Path) -> list[Trial]:
        """Return every trial, made on a validation split."""
        held = self._held()
        rows, classes = len(Real(self.dataset, held.validation, held.seed).rows), len(self.dataset.classes)
        asked: list[tuple[PictureCodec, str, int, float]] = []
        for quality in QUALITIES:
            room = self._room(self._codec(quality), "hard", rows)
            if room:
                codec, label, fits, slope = room
                for images in dict.fromkeys([fits, max(classes, fits // FEWER)]):
                    asked.append((codec, label, images, slope))
        trials = self._measured(asked, held, folder)
        expected = self._expected(trials, rows)
        trials += self._measured([expected] if expected else [], held, folder)
        best = max(trials, key=lambda t: t.top1)
        room = self._room(best.codec, "soft", rows) if "soft" in self.labels else None
        return trials + self._measured([room] if room else [], held, folder)

    def _expected(self, trials: Sequence[Trial], rows: int) -> tuple[PictureCodec, str, int, float] | None:
        """Return the point on the budget's curve that the law expects most of, unless it was tried already."""
        curve = {t.codec.quality: t for t in sorted(trials, key=lambda t: t.images)}  # the larger of each quality
        known = sorted(curve)
        if len(known) < 2:
            return None
        law = Law.fit([(t.images, t.per_image, 100.0 - t.top1) for t in trials])
        qualities = np.arange(known[0], known[-1] + 1)
        sizes = np.exp(np.interp(qualities, known, [np.log(curve[q].per_image) for q in known]))
        counts = np.exp(np.interp(qualities, known, [np.log(curve[q].images) for q in known]))
        quality = int(qualities[int(np.argmin(law.error(counts, sizes)))])
        if min(abs(quality - q) for q in known) < 3:
            return None
        return self._room(self._codec(quality), "hard", rows)

    def _measured(
        self, asked: Sequence[tuple[PictureCodec, str, int, float]], held: Recipe, folder: Path
    ) -> list[Trial]:
        if not asked:
            return []
        testing = scored_on(self.dataset, "validation", held.validation, held.seed)
        bench = Bench(testing, folder, self.device, self.reporter, self.jobs)
        arms = []
        for codec, label, images, _ in asked:
            name = f"{named(codec)}, {label}, {images}"
            recipe = self._recipe(codec, label, images, held)
            made = distil(
                self.dataset, recipe, device=self.device, reporter=self.reporter,
                out=folder / "sets" / re.sub(r"\W+", "-", name),
            )  # fmt: skip
            arms.append(Arm(name, "a trial", made, student=self.recipe.student))
        files = train_students(arms, [STUDENT], self.seeds, self.steps, bench)
        trials = []
        for arm, (codec, label, images, per_image) in zip(arms, asked, strict=True):
            scores = [read_json(path)["top1"] for path in trained(files, arm, STUDENT, self.seeds)]
            trials.append(Trial(codec, label, images, per_image, sum(scores) / len(scores)))
        return trials

    def _fill(self, codec: PictureCodec, label: str) -> int:
        low, high = len(self.dataset.classes), len(Real(self.dataset).rows)
        return filled(lambda images: self._weigh(codec, label, images), self.size, low, high)

    def _whole(self, codec: PictureCodec, images: int, size: int) -> Chosen:
        says = (
            f"The whole training set fits: {images:,} images as {named(codec)} take {size:,} of {self.size:,} bytes.",
            "Nothing had to be left out or made coarser, so nothing was tried.",
            "Labels are the classes.",
        )
        return Chosen(self._recipe(codec, "hard", images), says, ())

    def _says(self, best: Trial, images: int, trials: Sequence[Trial]) -> tuple[str, str, str]:
        others = sorted((t for t in trials if t is not best), key=lambda t: -t.top1)
        near = "The nearest others: " + "; ".join(map(str, others[:3])) if others else "Nothing else fits"
        soft = ""
        if "soft" not in self.labels:
            soft = "; soft labels, which need trained networks, were not tried"
        elif all(trial.label == "hard" for trial in trials):
            soft = "; soft labels do not fit"
        return (
            f"{self.size:,} bytes hold {images:,} of {len(self.dataset.train):,} images as {named(best.codec)} "
            f"({best.per_image:.0f} bytes each) with {best.label} labels.",
            f"Chosen on {self._held().validation:,} held-out training images, by {STUDENT} trained for {self.steps:,} "
            f"steps: {best.top1:.1f} %, of {len(trials)} trial{'s' if others else ''}.",
            f"{near}{soft}.",
        )


def folder_bytes(folder: Path) -> int:
    """Return the bytes of a folder as `du -sb` counts them: of its files and of its directories.

    A directory counts as at least 4,096 bytes: the set may be weighed on another disk than it will lie on.
    """
    sizes = ((path.is_dir(), path.stat().st_size) for path in (folder, *folder.rglob("*")))
    return sum(max(size, DIRECTORY) if directory else size for directory, size in sizes)
