"""SRe2L and CDA: pictures learned by inverting one trained network, labelled by it view by view.

SRe2L is arXiv 2306.13092 (NeurIPS 2023), CDA arXiv 2311.18838 (TMLR 2024): the same with a curriculum of crops.
"""

from __future__ import annotations

from typing import Any

from datastill.methods.profiles import fitted_crop, networks, profile, unflipped
from datastill.recipe import Choice, Control, DatasetInfo, NetworkRecipe, Paper, Recipe, TrainRecipe, choice, preset

# By profile: the released settings, and our own for small sets. Cosine and Adam's betas are those of `statistics`.
CROPS: dict[str, Any] = {"resized_crop": True, "flip": True}
RECOVERY: dict[str, dict[str, Any]] = {
    "cifar": {"rounds": 1000, "lr": 0.25, "alpha": 0.01, "jitter": 4},
    "tiny-imagenet": {"rounds": 4000, "lr": 0.1, "alpha": 1.0, "jitter": 4, "two_sided": True} | CROPS,
    "imagenet": {"rounds": 4000, "lr": 0.25, "alpha": 0.01, "jitter": 32} | CROPS,
    "small": {"rounds": 200, "lr": 0.1, "alpha": 0.1},
}
# CDA printed nothing for CIFAR: there, as for small sets, it is SRe2L with crops under the curriculum (ours).
CURRICULUM: dict[str, Any] = {"curriculum": "cosine"}
CDA = {
    "cifar": RECOVERY["cifar"] | CROPS | CURRICULUM,
    "tiny-imagenet": {"rounds": 4000, "lr": 0.4, "alpha": 0.05, "jitter": 4} | CROPS | CURRICULUM,
    "imagenet": RECOVERY["imagenet"] | CURRICULUM,
    "small": RECOVERY["small"] | CROPS | CURRICULUM,
}
STUDENTS: dict[str, dict[str, Any]] = {
    "cifar": {"optimiser": "adamw", "lr": 1e-3, "weight_decay": 0.01, "epochs": 400, "batch": 128, "mix": "mixup",
              "temperature": 30.0},
    "tiny-imagenet": {"optimiser": "sgd", "lr": 0.2, "weight_decay": 1e-4, "epochs": 100, "warmup": 5, "batch": 256,
                      "temperature": 20.0, "kl_scale": "temperature-squared", "resized_crop": 0.08},
    "imagenet": {"optimiser": "adamw", "lr": 1e-3, "weight_decay": 0.01, "decay": "matrices", "epochs": 300,
                 "batch": 1024, "mix": "cutmix", "mix_alpha": 1.0, "temperature": 20.0, "resized_crop": 0.08},
}  # fmt: skip
STUDENTS["small"] = STUDENTS["cifar"] | {"epochs": 60, "batch": 64}
TINY_TEACHER = {"lr": 0.2, "weight_decay": 1e-4, "epochs": 50, "warmup": 5, "batch": 256, "resized_crop": 0.08}
BLOCK = 100  # images of a set, one of each of so many classes
JPEG75 = {"format": "jpeg", "quality": 75, "chroma": "420"}  # of the released code
REPLAYED = 1 << 32  # logits, beyond which `label=replayed` refuses to hold them (its own limit)

HARD, RANDOM = {"label": choice("hard")}, {"select": choice("random")}
REAL = RANDOM | {"store": choice("pixels"), "match": choice("none")}


def controls(name: str, *own: Control) -> list[Control]:
    """Return the controls of a method of learned pictures, its own ones last."""
    return [
        Control(f"{name}_hard", "its own images with hard labels", HARD),
        Control("random_soft", "random real images, same labels", REAL),
        Control("random_hard", "random real images, hard labels", REAL | HARD),
        Control("equal_bytes_soft", "as many random real images as fill its bytes, stored soft labels",
                RANDOM | {"match": choice("none"), "label": choice("static")}, needs="bytes"),
        Control("equal_bytes_hard", "as many random real images as fill its bytes, hard labels",
                RANDOM | {"match": choice("none")} | HARD, needs="bytes"),
        Control("coded_hard", "as many random real images under a lossy codec as fill its bytes, hard labels",
                RANDOM | {"store": choice("coded"), "match": choice("none"), "networks": {}} | HARD, needs="bytes"),
        *own,
    ]  # fmt: skip


START = Control("start", "the noise that it begins from, nothing learned, same labels", {"match": choice("none")})
AT_ONCE = Control("no_curriculum", "the same with crops of every size from the start", {"match.curriculum": "none"})


def papers(where: str, table: dict[tuple[str, int], dict[str, Any]]) -> list[Paper]:
    """Return rows of a paper's table, top-1 or (top-1, deviation) by student; all have networks in the loop."""
    found = []
    for (source, ipc), cells in table.items():
        for student, value in cells.items():
            top1, std = value if isinstance(value, tuple) else (value, None)
            found.append(Paper(source, ipc, student, "D", top1, std, where))
    return found


def of_resnets(*values: Any) -> dict[str, Any]:
    """Return values of the three students of the papers by name."""
    return dict(zip(("resnet18", "resnet50", "resnet101"), values, strict=True))


SRE2L_TABLE = {
    ("tiny-imagenet", 50): of_resnets((41.1, 0.4), (42.2, 0.5), (42.5, 0.2)),
    ("tiny-imagenet", 100): of_resnets((49.7, 0.3), (51.2, 0.4), (51.5, 0.3)),
    ("imagenet", 10): of_resnets((21.3, 0.6), (28.4, 0.1), (30.9, 0.1)),
    ("imagenet", 50): of_resnets((46.8, 0.2), (55.6, 0.3), (60.8, 0.5)),
    ("imagenet", 100): of_resnets((52.8, 0.3), (61.0, 0.4), (62.8, 0.2)),
    ("imagenet", 200): of_resnets((57.0, 0.4), (64.6, 0.3), (65.9, 0.3)),
}
CDA_TABLE = {
    ("tiny-imagenet", 50): of_resnets(48.7, 49.7, 50.6),
    ("tiny-imagenet", 100): of_resnets(53.2, 54.4, 55.0),
    ("imagenet", 50): of_resnets(53.5, 61.3, 61.6),
    ("imagenet", 100): of_resnets(58.0, 65.1, 65.9),
    ("imagenet", 200): of_resnets(63.3, 67.6, 68.4),
}
README = "main table, as its README shows it"


def teacher(info: DatasetInfo, tiny: dict[str, Any] = TINY_TEACHER) -> dict[str, NetworkRecipe]:
    """Return the table of one network, a ResNet-18; for small sets the first of INFER's table.

    tiny: how it is trained on tiny-imagenet. On CIFAR and ImageNet it is trained as INFER's; the papers take ready
    weights for ImageNet.
    """
    (arch, made), *_ = networks(info).items()
    if profile(info) != "tiny-imagenet":
        return {arch: made}
    return {arch: NetworkRecipe(arch=arch, training=TrainRecipe(**(fitted_crop(info) | unflipped(info) | tiny)))}


def label(info: DatasetInfo, ipc: int, student: TrainRecipe, faithful: bool) -> Choice:
    """Return networks in the loop, or for ImageNet their recorded labels, where these can be held at all.

    The released code for CIFAR leaves the teacher in training mode while it labels.
    """
    work = student.work(ipc * info.classes)
    if profile(info) == "imagenet" and work.steps * work.batch * info.classes <= REPLAYED:
        return choice("replayed")
    batch = faithful and profile(info) == "cifar"
    return choice("dynamic", **({"teacher_mode": "batch"} if batch else {}))


def store(faithful: bool, **settings: Any) -> Choice:
    """Return learned pixels; faithful ones are cut to 8 bits and coded as the released code does."""
    return choice("synthetic", **settings, **({"codec": JPEG75, "rounding": "truncate"} if faithful else {}))


def match(info: DatasetInfo, table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the settings of the recovery of a data set: shifts fit small pictures, and digits are never mirrored."""
    return {"jitter": fitted_crop(info).get("crop", 4)} | table[profile(info)] | unflipped(info)


def trained(info: DatasetInfo, table: dict[str, dict[str, Any]]) -> TrainRecipe:
    """Return how students of a data set are trained."""
    return TrainRecipe(**(fitted_crop(info) | unflipped(info) | table[profile(info)]))


def _recipe(name: str, info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    settings = match(info, CDA if name == "cda" else RECOVERY)
    if faithful and settings.get("resized_crop"):
        settings["antialias"] = False  # torchvision filtered tensors from version 0.17 on, which came later
    student = trained(info, STUDENTS)
    return Recipe(
        method=name,
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=store(faithful, block=BLOCK),
        match=choice("statistics", **settings),
        label=label(info, ipc, student, faithful),
        stages=choice("once"),
        student=student,
        networks=teacher(info),
    )


@preset("sre2l", title="SRe2L, learned pictures", cite="arXiv:2306.13092", controls=controls("sre2l", START),
        paper=papers(README, SRE2L_TABLE))  # fmt: skip
def sre2l(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """Pictures learned from noise under cross-entropy and BatchNorm statistics of one network."""
    return _recipe("sre2l", info, ipc, faithful)


@preset("cda", title="CDA, learned pictures under a curriculum", cite="arXiv:2311.18838",
        controls=controls("cda", START, AT_ONCE), paper=papers(README, CDA_TABLE))  # fmt: skip
def cda(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """SRe2L whose crops begin with the whole image and become smaller."""
    return _recipe("cda", info, ipc, faithful)
