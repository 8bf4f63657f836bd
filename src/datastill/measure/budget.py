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
from datastill.errors import DatastillError
from datastill.fields import Real
from datastill.measure.arms import Arm
from datastill.measure.filling import filled
from datastill.measure.law import Law
from datastill.measure.rows import Bench, scored_on, train_students, trained
from datastill.recipe import Choice, Recipe, choice
from datastill.runtime.device import Device
from datastill.runtime.files import read_json
from datastill.runtime.progress import Reporter
from datastill.settings import plain
from datastill.sources import Dataset

TILES = 1024
QUALITIES = (30, 45, 60, 75)
LABELS: dict[str, Choice] = {"hard": choice("hard"), "soft": choice("static", codec={"kind": "klt"})}
STUDENT = "convnet(width=32)"
FEWER = 4  # the law is fitted to sets of as many images as fit, and to a quarter of them
HELD_OUT = 10  # one training image in so many is held out while choosing
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

        Raises: DatastillError for a budget that cannot hold one image per class, naming the smallest that can.
        """
        lossless = PictureCodec(format="webp-lossless", tiles=TILES)
        all_images = len(Real(self.dataset).rows)
        if self._predicted(lossless, "hard", all_images) <= self.size:
            return self._whole(lossless, all_images)
        self._refuse_too_small()
        with tempfile.TemporaryDirectory() as folder:
            trials = self._trials(Path(folder))
        best = max(trials, key=lambda t: t.top1)
        images = self._fill(best.codec, best.label)
        recipe = self._recipe(best.codec, best.label, images)
        return Chosen(recipe, self._says(best, images, trials), tuple(trials))

    def _held(self) -> Recipe:
        """Return the recipe that holds images out for choosing."""
        count = len(self.dataset.train) // HELD_OUT
        return replace(self.recipe, validation=max(len(self.dataset.classes), count))

    def _recipe(self, codec: PictureCodec, label: str, images: int, base: Recipe | None = None) -> Recipe:
        store = choice("coded", codec=plain(codec), total=images)
        nominal = -(-images // len(self.dataset.classes))
        # Nobody asks networks for hard labels of random images, and their table would be bytes of the manifest.
        unasked: dict[str, Any] = {"networks": {}} if label == "hard" else {}
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
            return folder_bytes(out)

    def _line(self, codec: PictureCodec, label: str) -> tuple[float, float]:
        """Return bytes of a set without images, and bytes per image, from two weighings."""
        held = self._held()
        classes, rows = len(self.dataset.classes), len(Real(self.dataset, held.validation, held.seed).rows)
        few, many = classes, min(rows, max(2 * classes, 512))
        low = self._weigh(codec, label, few, held)
        if many <= few:
            return 0.0, low / few
        slope = (self._weigh(codec, label, many, held) - low) / (many - few)
        return low - slope * few, max(slope, 1e-3)

    def _predicted(self, codec: PictureCodec, label: str, images: int) -> float:
        base, slope = self._line(codec, label)
        return base + slope * images

    def _refuse_too_small(self) -> None:
        coarsest = self._codec(min(QUALITIES))
        classes = len(self.dataset.classes)
        needed = self._weigh(coarsest, "hard", classes)
        if needed > self.size:
            raise DatastillError(
                f"--budget of {self.size:,} bytes cannot hold one image of each of {classes} classes; the smallest "
                f"that can is {needed:,} bytes."
            )

    def _codec(self, quality: int) -> PictureCodec:
        codec = PictureCodec(format="avif", quality=quality, tiles=TILES)
        if picture_problems(codec, self.dataset.shape):  # a Pillow without AVIF: the next best that every one has
            return PictureCodec(format="webp", quality=quality, chroma="420", tiles=TILES)
        return codec

    def _trials(self, folder: Path) -> list[Trial]:
        """Return every trial, made on a validation split."""
        held = self._held()
        rows, classes = len(Real(self.dataset, held.validation, held.seed).rows), len(self.dataset.classes)
        asked: list[tuple[PictureCodec, str, int, float]] = []
        for quality in QUALITIES:
            codec = self._codec(quality)
            base, slope = self._line(codec, "hard")
            fits = int(min(rows, max(classes, (self.size - base) // slope)))
            for images in dict.fromkeys([fits, max(classes, fits // FEWER)]):
                asked.append((codec, "hard", images, slope))
        trials = self._measured(asked, held, folder)
        trials += self._measured(self._expected(trials, rows), held, folder)
        if "soft" not in self.labels:
            return trials
        best = max(trials, key=lambda t: t.top1)
        base, slope = self._line(best.codec, "soft")
        fits = int(min(rows, max(classes, (self.size - base) // slope)))
        return trials + self._measured([(best.codec, "soft", fits, slope)], held, folder)

    def _expected(self, trials: Sequence[Trial], rows: int) -> list[tuple[PictureCodec, str, int, float]]:
        """Return the point on the budget's curve that the law expects most of, unless it was tried already."""
        law = Law.fit([(t.images, t.per_image, 100.0 - t.top1) for t in trials])
        qualities = np.arange(min(QUALITIES), max(QUALITIES) + 1)
        curve = {t.codec.quality: t for t in sorted(trials, key=lambda t: t.images)}  # the larger of each quality
        known = sorted(curve)
        sizes = np.exp(np.interp(qualities, known, [np.log(curve[q].per_image) for q in known]))
        counts = np.exp(np.interp(qualities, known, [np.log(curve[q].images) for q in known]))
        best = int(np.argmin(law.error(counts, sizes)))
        quality = int(qualities[best])
        if min(abs(quality - q) for q in known) < 3:
            return []
        codec = self._codec(quality)
        base, slope = self._line(codec, "hard")
        return [(codec, "hard", int(min(rows, (self.size - base) // slope)), slope)]

    def _measured(
        self, asked: Sequence[tuple[PictureCodec, str, int, float]], held: Recipe, folder: Path
    ) -> list[Trial]:
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

    def _whole(self, codec: PictureCodec, images: int) -> Chosen:
        whole = self._weigh(codec, "hard", images)
        says = (
            f"The whole training set fits: {images:,} images as {named(codec)} take {whole:,} of {self.size:,} bytes.",
            "Nothing had to be left out or made coarser, so nothing was tried.",
            "Labels are the classes.",
        )
        return Chosen(self._recipe(codec, "hard", images), says, ())

    def _says(self, best: Trial, images: int, trials: Sequence[Trial]) -> tuple[str, str, str]:
        others = sorted((t for t in trials if t is not best), key=lambda t: -t.top1)
        held = self._held().validation
        return (
            f"{self.size:,} bytes hold {images:,} of {len(self.dataset.train):,} images as {named(best.codec)} "
            f"({best.per_image:.0f} bytes each) with {best.label} labels.",
            f"Chosen on {held:,} held-out training images, by {STUDENT} trained for {self.steps:,} steps: "
            f"{best.top1:.1f} %, of {len(trials)} trials.",
            "The nearest others: "
            + "; ".join(str(t) for t in others[:3])
            + ("." if "soft" in self.labels else "; soft labels, which need trained networks, were not tried."),
        )


def folder_bytes(folder: Path) -> int:
    """Return the bytes of a folder as `du -sb` counts them: of its files and of its directories."""
    return sum(path.stat().st_size for path in (folder, *folder.rglob("*")))
