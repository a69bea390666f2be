"""The page on lists of steps: its example runs, its YAML is understood."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from taskloom.merging.recipe import Recipe
from taskloom.runs.demo import plan_path
from taskloom.runs.plan import load_plan

TEXT = (Path(__file__).resolve().parents[2] / "docs/compose.md").read_text(encoding="utf-8")


def blocks(opening: str) -> list[str]:
    return re.findall(rf"^```{opening}\n(.*?)^```", TEXT, re.S | re.M)


def test_the_recipe_file_is_a_recipe(tmp_path):
    (block,) = blocks('yaml title="mine.yaml"')
    path = tmp_path / "mine.yaml"
    path.write_text(block, encoding="utf-8")
    assert str(Recipe.read(str(path)).chain) == (
        "drop(0.5, seed 0) -> keep(0.2, model) -> elect -> weigh_by_size(2, model) -> mean(kept) -> "
        "scale(1.1)"
    )


def test_the_example_runs(capsys):
    (block,) = blocks("python")
    exec(compile(block, "docs/compose.md", "exec"), {})
    # kept: 4 and 1, 2 and -3; elected: 6 and -2; sizes 16 and 13 of 29
    shown = capsys.readouterr().out
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+|-?\d+\.", shown)]
    first, second = 16 / 29, 13 / 29
    assert numbers == pytest.approx([4 * first + 2 * second, -3 * second, 0, 0], abs=1e-4)


def test_the_plan_is_a_plan():
    (block,) = blocks("yaml")
    plan = yaml.safe_load(plan_path("small").read_text(encoding="utf-8"))
    found, _ = load_plan({**plan, **yaml.safe_load(block)})
    assert [item.label for item in found.merge] == ["ties", "by size"]
