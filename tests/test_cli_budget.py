"""Coded images on the command line: a number of bytes to spend, codecs that are not there, pictures of every mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from datastill import DistilledDataset, distill
from datastill.cli import main
from datastill.measure import budget
from datastill.runtime.seeds import rng


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def words_of(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_codec_that_this_pillow_lacks_ends_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "avif" and known(name))
    assert run("distill", "digits", "--method", "datastill", "--out", str(tmp_path / "out")) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("datastill: ")
    assert "store 'coded': pictures in format 'avif' need a Pillow that was built with AVIF" in said
    assert "install a wheel of Pillow, or choose another format, such as webp-lossless" in said
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose images are colour, grey, 16-bit grey, of a palette and with transparency."""
    root, draw = tmp_path_factory.mktemp("mixed") / "photos", rng(0, "mixed")
    for name in ("left", "right"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            colour = draw.integers(0, 256, (12, 12, 4), dtype=np.uint8)
            rgb = Image.fromarray(colour[..., :3])
            deep = Image.fromarray(draw.integers(0, 1 << 16, (12, 12)).astype(np.uint16))
            for kind, image in (("rgb", rgb), ("grey", rgb.convert("L")), ("deep", deep), ("palette", rgb.convert("P")),
                                ("alpha", Image.fromarray(colour))):  # fmt: skip
                image.save(root / name / f"{kind}{i}.png")
    return root


@pytest.mark.parametrize("how", [("--method", "datastill", "--ipc", "3", "--teachers", "convnet(width=8)", "--set",
                                  "networks.*.training.steps=2"), ("--budget", "1MB")])  # fmt: skip
def test_images_of_every_mode_are_coded_and_what_was_converted_is_said(
    how: tuple[str, ...], mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("distill", str(mixed), *how, "--out", str(tmp_path / "out"), "--device", "cpu") == 0
    said = words_of(capsys)
    for note in ("8 grey images were made RGB, because the set has colour images.",
                 "8 16-bit grey images were brought to 8 bits (v / 257, rounded).",
                 "8 palette images were made RGB.",
                 "8 images with transparency were laid on white."):  # fmt: skip
        assert note in said
    made = DistilledDataset.load(tmp_path / "out")
    assert made.info.shape == (3, 12, 12)
    assert any("laid on white" in note for note in made.facts["source"]["notes"])


def test_a_budget_on_the_command_line_buys_what_the_function_buys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "STUDENT", "convnet(width=8)")
    monkeypatch.setattr(budget, "QUALITIES", (45,))
    out = tmp_path / "out"
    words = ("distill", "digits", "--budget", "17kB", "--steps", "2", "--device", "cpu", "--seed", "3")
    monkeypatch.setattr("datastill.api.jobs_on", lambda device, jobs: 1)
    assert run(*words, "--out", str(out)) == 0
    said = words_of(capsys)
    assert "17,000 bytes hold" in said
    assert "images as avif at quality 45" in said
    assert "Chosen on 143 held-out training images, by convnet(width=8) trained for 2 steps" in said
    assert "The nearest others:" in said
    made = DistilledDataset.load(out)
    assert 0.9 * 17_000 < budget.folder_bytes(out) <= 17_000
    told = {k: made.facts["source"][k] for k in ("asked", "classes", "size", "skip_bad")}
    again = distill("digits", budget="17kB", steps=2, seed=3, device="cpu", command=made.facts["command"], source=told)
    assert again.recipe == made.recipe
    assert again.content.pictures.encoded == made.content.pictures.encoded


def test_the_recipe_that_a_budget_buys_is_shown_without_being_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none"
    assert run("distill", "digits", "--budget", "10MB", "--show-recipe", "--device", "cpu", "--out", str(out)) == 0
    assert "total: 1438" in words_of(capsys)
    assert not out.exists()
