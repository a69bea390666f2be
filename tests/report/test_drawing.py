"""Charts as pictures of their own: files of two kinds, the same text for the same chart."""

from __future__ import annotations

import copy
import sys

import pytest

from taskloom.errors import MissingExtra, OutputError, PlanError
from taskloom.runs.report import theme
from taskloom.runs.report.drawing import check_picture, save_chart, still, titled_svg
from taskloom.runs.report.intervals import interval_layers
from taskloom.runs.report.style import axis, config, fixed

DOT = {
    "mark": {"type": "point", "color": theme.colour("good"), "clip": True},
    "encoding": {"x": {"field": "a", "type": "quantitative"}},
}
CHART = {**fixed([{"a": 1}, {"a": 2}]), **DOT, "config": config()}


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<svg")])
def test_the_suffix_says_which_file(name, begins, tmp_path):
    before = copy.deepcopy(CHART)
    assert save_chart(CHART, tmp_path / "new" / name).read_bytes().startswith(begins)
    assert before == CHART


def test_both_palettes(tmp_path):
    drawn = {
        palette: save_chart(CHART, tmp_path / f"{palette}.svg", palette=palette).read_text().lower()
        for palette in ("light", "dark")
    }
    for palette, hues in (("light", theme.LIGHT), ("dark", theme.DARK)):
        for name in ("good", "card"):
            assert hues[name].lower() in drawn[palette]
    assert theme.LIGHT["card"].lower() not in drawn["dark"]
    assert "var(--" not in str(still(CHART))


@pytest.mark.parametrize("name", ["a.pdf", "png", "a.PNG"])
def test_other_suffixes_are_refused_before_anything_is_drawn(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    for call in (check_picture, lambda path: save_chart(CHART, path)):
        with pytest.raises(PlanError, match=r"expected a name that ends with \.png or \.svg"):
            call(tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    for call in (lambda: save_chart(CHART, tmp_path / "a.svg"), lambda: titled_svg(DOT, "", "")):
        with pytest.raises(MissingExtra, match="vl-convert-python"):
            call()


def test_a_picture_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_chart(CHART, tmp_path / "file" / "a.svg")


def test_a_chart_is_the_same_text_whatever_was_drawn_before():
    dots = {"data": {"values": [{"a": 1}]}, **DOT}
    first = titled_svg(dots, "What it is", "and of what")
    titled_svg({**dots, "width": 90}, "Another", "")
    assert titled_svg(dots, "What it is", "and of what") == first
    assert first.count('id="clip1"') == 1
    assert ">What it is<" in first
    assert ">and of what<" in first


def test_rows_have_an_interval_a_dot_and_a_number():
    rows = [
        {"name": "b", "value": 2.0, "low": 1.0, "high": 3.0, "kind": "own", "shown": "two"},
        {"name": "a", "value": 5.0, "low": 4.0, "high": 6.0, "kind": "other", "shown": "five"},
    ]
    x = {"type": "quantitative", "axis": axis(None), "scale": {"domain": [0, 10]}}
    y = {"field": "name", "type": "nominal"}
    kind = {"field": "kind", "type": "nominal"}
    layers = interval_layers(rows, [7.0, 8.0], x=x, y=y, color=kind, shape=kind, width=100)
    assert [layer["mark"]["type"] for layer in layers] == ["rule", "rule", "point", "text"]
    drawn = titled_svg({"width": 100, "height": 60, "layer": layers}, "T", "")
    for told in ("two", "five"):
        assert f">{told}<" in drawn
    assert 'transform="translate(20,' in drawn  # the mean 2 of a frame of 100 for 0 to 10
    assert 'transform="translate(105,' in drawn  # numbers stand beside the frame
    assert drawn.count("stroke-dasharray") >= 2
