"""Labels of recorded batches: the networks' logits on every augmented, mixed batch of some epochs, stored once.

The form is that of FKD (arXiv 2112.01528) and of the relabelling of SRe2L (arXiv 2306.13092). Unlike there, the items
of a batch and all that was drawn for it are stored too, so nothing depends on whose generator draws what. A record is
one whole batch: the networks saw it mixed, so its rows mean nothing to any other batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from datastill.codecs import LabelCodec, label_problems
from datastill.errors import DatastillError
from datastill.fields import Content, Context, Expanded, Labels, Recording, Records, register
from datastill.label.dynamic import Dynamic
from datastill.networks import Network
from datastill.recipe import DatasetInfo, Recipe, TrainRecipe, Work
from datastill.settings import setting
from datastill.training.records import form_of, pack, unpack
from datastill.training.supply import Batch, Data, draw_batch, see, told_batch

FILE = 1 << 22  # numbers of the logits of one file: 8 MB as fp16
LARGEST = 1 << 32  # numbers of all logits, which stand in memory once while they are made: 8.6 GB as fp16


@register("label", "replayed")
@dataclass(frozen=True, kw_only=True)
class Replayed(Dynamic):
    """A run of `dynamic` labels, recorded: every student sees the same batches, whatever its seed.

    Order, views and mixing are those that the recipe's student draws under the recipe's seed, so students replay what
    `dynamic` shows the student of that seed. A student's own settings of views and mixing say nothing here.
    """

    epochs: int | None = setting(
        None, low=1, help="how many are recorded; null: all that the recipe's student trains. Then they come again"
    )
    codec: LabelCodec = setting(LabelCodec(), help="how logits are stored")

    @property
    def kind(self) -> str:
        """Labels of recorded batches."""
        return "replayed"

    def check(self, recipe: Recipe, info: DatasetInfo) -> list[str]:
        """Refuse a recipe without networks, a codec that does not fit the classes, and draws that are not recorded."""
        mistakes = super().check(recipe, info) + label_problems(self.codec, info.classes)
        student = recipe.student
        if student.augment != "none":
            mistakes.append(
                f"label 'replayed' stores all that is drawn for a batch, which it cannot for student.augment="
                f"{student.augment}; set it to none, or choose label 'dynamic'."
            )
        if student.mix != "none" and student.mix_share < 1.0:
            mistakes.append(
                "label 'replayed' stores the mixing of every batch, but with student.mix_share="
                f"{student.mix_share} some are not mixed; set it to 1, or choose label 'dynamic'."
            )
        return mistakes

    def recording(self, recipe: Recipe, items: int) -> Recording:
        """Return how many batches of so many items are recorded, and the settings that the recipe's student gives."""
        student = recipe.student
        work = student.work(items)
        count = work.steps if self.epochs is None else self.epochs * work.epoch
        return Recording(count, work.batch, student.crop if student.resized_crop is None else 0, student.cutout)

    def make(self, images: Tensor, ctx: Context, content: Content) -> Labels:
        """Return the mean logits of the networks on every recorded batch, as they come back from the codec.

        Raises: DatastillError for more logits than memory should be asked for.
        """
        classes, student, seed = ctx.info.classes, ctx.recipe.student, ctx.recipe.seed
        recording = self.recording(ctx.recipe, len(images))
        each = recording.batch * classes
        if recording.count * each > LARGEST:
            raise DatastillError(
                f"label 'replayed' would hold {recording.count * each:,} logits ({recording.count:,} batches of "
                f"{recording.batch} items, {classes} classes), and at most {LARGEST:,} are held; ask for fewer "
                "label.epochs, which then come again, or for label=dynamic."
            )
        per_file = min(recording.count, max(1, FILE // each))
        work = student.work(len(images), recording.count)
        shape = (images.shape[1], images.shape[2], images.shape[3])
        untold = Expanded(images, content.items.cls, Labels("teachers", None, ctx.makers), classes)
        networks = {name: ctx.network(name) for name in ctx.makers}
        asked = super().supply(untold, work, student, seed, device=ctx.device.torch, teachers=networks)
        form = form_of(student, len(images))
        files: list[dict[str, Tensor]] = []
        facts: list[tuple[int, dict[str, Any]]] = []
        with ctx.reporter.phase("label", recording.count) as phase:
            while said := [batch.target.cpu() for batch in islice(asked, per_file)]:
                first = len(files) * per_file
                told = Labels.coded(torch.cat(said), self.codec)
                assert told.arrays is not None, "coded labels have arrays"
                steps = range(first, first + len(said))
                views = pack([draw_batch(work, shape, student, seed, step) for step in steps], form)
                files.append(_prefixed("label.", told.arrays) | _prefixed("view.", views))
                facts.append((len(said), told.facts))
                phase.advance(len(said))
        records = Records(recording, per_file, tuple(files))
        return Labels("replayed", None, (), self.codec, None, _mean(facts), records=records)

    def supply(
        self,
        data: Expanded,
        work: Work,
        recipe: TrainRecipe,
        seed: int,
        *,
        device: torch.device,
        start: int = 0,
        teachers: Mapping[str, Network] | None = None,
    ) -> Iterator[Batch]:
        """Yield the recorded batches in their order, again from the first one after the last. `seed` draws nothing.

        Raises: DatastillError for batches of another size than was recorded.
        """
        records = data.labels.records
        assert records is not None, "replayed labels come with records"
        if work.batch != records.recording.batch:
            raise DatastillError(
                f"a student with batches of {work.batch} items was asked for, but the labels of this set belong to "
                f"whole batches of {records.recording.batch}; train with student.batch={records.recording.batch}, or "
                f"label the set anew with student.batch={work.batch}."
            )
        return _replay(data, records, work, recipe, device, start)


def _replay(
    data: Expanded, records: Records, work: Work, recipe: TrainRecipe, device: torch.device, start: int
) -> Iterator[Batch]:
    """Yield batches; one file is decoded at a time."""
    made = Data(data.images, data.cls, None, "logits").to(device)
    recording, held = records.recording, -1
    for step in range(start, work.steps):
        number, place = divmod(step % recording.count, records.per_file)
        if number != held:
            logits, views = records.logits(number, data.classes, data.labels.codec), records.part(number, "view.")
            held = number
        order, view = unpack(views, place, crop=recording.crop, cutout=recording.cutout)
        rows, view, x = see(made, order, view)
        yield told_batch(made, rows, view, x, logits[place].to(device, non_blocking=True), recipe)


def _prefixed(prefix: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: array for name, array in arrays.items()}


def _mean(facts: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what the codec lost (see `label_error`): the mean over files, each with its number of batches."""
    total = sum(n for n, _ in facts)
    shares = {t: sum(n * f["kl"][t] for n, f in facts) / total for t in facts[0][1]["kl"]}
    return {"kl": shares, "top1": sum(n * f["top1"] for n, f in facts) / total}
