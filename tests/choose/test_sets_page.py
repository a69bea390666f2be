"""The page of sets names every chooser, and its examples run."""

import re
from pathlib import Path

from taskloom.registry import entries

PAGE = (Path(__file__).resolve().parents[2] / "docs/sets.md").read_text(encoding="utf-8")


def test_every_chooser_has_a_row():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert rows
    assert set(rows) == {entry.name for entry in entries("set")}


def test_the_examples_run(capsys):
    first, second = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(compile(first, "docs/sets.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "(0, 2) (0, 0, 1, 1)"
    assert "covers 3.5" in said[1]
    exec(compile(second, "docs/sets.md", "exec"), {})
    region, wrong, median = capsys.readouterr().out.split()
    assert region in ("hard", "ambiguous")
    assert float(wrong) < 0.5 < float(median)
