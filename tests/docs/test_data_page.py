"""The page on data selection: its example runs, and its table knows every selector."""

import re
from pathlib import Path

import pytest

from taskloom.registry import entries

TEXT = (Path(__file__).parents[2] / "docs" / "data_selection.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.S | re.M)
    exec(compile(block, "docs/data_selection.md", "exec"), {})
    assert capsys.readouterr().out == "[1, 2, 4]\n"


@pytest.mark.parametrize("family", ["selector", "mixture"])
def test_every_rule_is_there(family):
    for entry in entries(family):
        assert f"`{entry.name}`" in TEXT
