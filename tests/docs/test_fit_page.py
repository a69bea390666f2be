"""The page on fits: its example runs, and what it names exists."""

import re
from pathlib import Path

import yaml

from taskloom import registry
from taskloom.runs.plan import load_fit_plan

TEXT = (Path(__file__).resolve().parents[2] / "docs/fit.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.S | re.M)
    exec(compile(block, "docs/fit.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown == "{'encoder.0.w': tensor([2., 2.]), 'encoder.1.w': tensor([1.5000, 1.5000])}\n"


def test_plans_are_plans_of_a_fit():
    blocks = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.S | re.M)
    first, second = (load_fit_plan(yaml.safe_load(block)) for block in blocks)
    assert first.fit.method == "adamerging"
    assert first.fit.options["prefer"] == {"sms_spam": 1, "trec6": 2}
    assert second.fit.tasks == [second.targets[0].task]


def test_methods_and_objectives_that_are_named_exist():
    named = set(re.findall(r"^\| `(\w+)`", TEXT, re.M))
    assert named == {"adamerging", "atlas", "divmerge", "self_positioning"}
    assert named <= {entry.name for entry in registry.entries("fit")}
    (listed,) = re.findall(r"`objective` \((.*?)\)", TEXT)
    assert set(re.findall(r"`(\w+)`", listed)) == {e.name for e in registry.entries("objective")}
