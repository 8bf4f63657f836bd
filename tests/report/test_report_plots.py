"""Figures: inline SVG in the page's ink, the same colour for an arm everywhere, nothing of a stranger's inside."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from datastill.report.plots import COLOURS, FAINT, INK, Plot, arm_marks, curves, embedding, teacher_curves


def drawn(plot: Plot | None) -> Plot:
    assert plot is not None
    return plot


def test_each_column_has_its_own_pair_of_figures_and_the_methods_comes_first(results):
    plots = curves(results, "resnet18")
    assert [plot.alt.partition(":")[0].rpartition(" ")[2] for plot in plots] == ["S", "S", "H", "H", "D", "D"]
    assert [[mark.name for mark in plot.legend] for plot in plots[::2]] == [
        ["infer", "random_soft", "other_steps"], ["random_hard"], ["dynamic"],
    ]  # fmt: skip


def test_figures_are_whole_svg_in_the_pages_ink(results):
    shown = drawn(embedding(results["rows"][0], results["classes"], [0, 1]))
    for plot in [*curves(results, "resnet18"), drawn(teacher_curves(results)), shown]:
        root = ElementTree.fromstring(plot.svg)
        assert root.tag == "svg"
        assert root.get("viewBox")
        assert root.get("width") is None
        assert "http" not in plot.svg
        assert INK not in plot.svg
        assert FAINT not in plot.svg
    assert "currentColor" in curves(results, "resnet18")[0].svg


def test_an_arm_keeps_its_mark_and_no_two_arms_share_one(results):
    row = results["rows"][1]
    results["rows"] += [row | {"arm": f"arm {i}"} for i in range(10)]
    marks = arm_marks(results, "resnet18")
    assert len({(mark.colour, mark.dash) for mark in marks.values()}) == 15
    assert marks["infer"].width > marks["random_soft"].width
    for plot in curves(results, "resnet18"):
        assert all(mark == marks[mark.name] for mark in plot.legend)
        assert all(mark.colour in plot.svg for mark in plot.legend)


def test_classes_that_are_not_shown_are_grey_and_named_as_others(results):
    plot = drawn(embedding(results["rows"][0], results["classes"], [0, 2]))
    assert [mark.name for mark in plot.legend] == [results["classes"][0], results["classes"][2], "other classes"]
    assert plot.svg.count("<use") == 60
    assert results["classes"][0] not in plot.svg
    assert COLOURS[1] in plot.svg
    assert COLOURS[2] not in plot.svg


def test_ten_classes_have_ten_different_marks(results):
    row = results["rows"][0]
    row["embedding"]["cls"] = [i % 10 for i in range(60)]
    plot = drawn(embedding(row, [str(i) for i in range(10)], list(range(10))))
    assert len({(mark.colour, mark.sign) for mark in plot.legend}) == 10


@pytest.mark.parametrize("losses", [[2.0], [0.0, 0.0], [5.0, -1.0], [100.0, 1.0, 0.01]])
def test_curves_of_one_point_of_zeros_and_of_many_decades_are_drawn(results, losses):
    results["rows"] = results["rows"][:1]
    results["rows"][0] |= {"losses": losses, "item_accuracy": []}
    loss, accuracy = curves(results, "resnet18")
    assert COLOURS[0] in loss.svg
    assert "optimiser step" in accuracy.svg


def test_the_same_figure_is_the_same_text(results):
    assert [p.svg for p in curves(results, "resnet18")] == [p.svg for p in curves(results, "resnet18")]


def test_without_features_or_networks_there_is_no_figure(results):
    assert embedding(results["rows"][0] | {"embedding": None}, results["classes"], [0]) is None
    assert teacher_curves(results | {"teachers": {}}) is None
