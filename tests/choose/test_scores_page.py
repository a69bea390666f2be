"""The page of the scores names every one, and its example runs."""

import re
from pathlib import Path

from taskloom.choose.supplies import KNOWN
from taskloom.registry import entries
from taskloom.runs.compare import TOGETHER

PAGE = (Path(__file__).resolve().parents[2] / "docs/scores.md").read_text(encoding="utf-8")


def test_every_score_has_a_row():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert set(rows) >= {entry.name for entry in entries("score")} | set(TOGETHER)
    for name in KNOWN:
        assert f"`{name}`" in PAGE


def test_the_example_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(compile(block, "docs/scores.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    near, far = (float(word) for word in said[0].split())
    assert near > far
    assert said[2:] == ["logme near", "gbc near", "knn near"]
