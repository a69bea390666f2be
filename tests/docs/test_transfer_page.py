"""The page on transfer matrices: its plan can be loaded, its code runs, its command lines exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from taskloom.cli import bench, train, transfer
from taskloom.runs.transfer.plan import load_transfer_plan

PAGE = (Path(__file__).parents[2] / "docs" / "transfer.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_the_plan_of_the_page_can_be_loaded():
    (text,) = blocks("yaml")
    plan = load_transfer_plan(yaml.safe_load(text))
    assert list(plan.source_tasks) == ["trec6", "bbc_news", "tweets_apple"]
    assert list(plan.ways) == ["full", "lora", "merge", "zero_shot"]


def test_the_predictor_of_the_page_runs(capsys):
    exec(blocks("python")[1], {})
    first, second = map(float, capsys.readouterr().out.strip(" []\n").split())
    assert first > second


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if line])
def test_every_command_line_has_options_that_exist(line):
    name, verb, *words = shlex.split(line.partition("#")[0])
    assert name == "taskloom"
    command = {"transfer": transfer, "bench": bench, "train": train}[verb].command
    command.make_context(verb, words)
