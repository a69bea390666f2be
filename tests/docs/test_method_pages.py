"""Pages of methods, the chooser and the page on claims, as generated."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from taskloom import registry
from taskloom.runs.claims.claim import FAMILIES, records
from taskloom.runs.claims.ledger import Ledger
from taskloom.runs.claims.results import Results
from taskloom.runs.claims.suitable import suitable

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import choose_page as chooser  # noqa: E402
import method_pages  # noqa: E402
from pages import PAGES  # noqa: E402
from references import main as references  # noqa: E402
from texts import section  # noqa: E402

from runs.claims.made_up import quality, results  # noqa: E402

NAMES = [entry.name for entry in registry.entries("merge")]


@pytest.fixture
def measured(monkeypatch):
    """Pages as they are once everything has been measured."""
    found = Ledger(results(seeds=(0, 1)))
    for module in (method_pages, chooser):
        monkeypatch.setattr(module, "ledger", lambda: found)
    return found


@pytest.fixture
def unmeasured(monkeypatch):
    found = Ledger(Results())
    for module in (method_pages, chooser):
        monkeypatch.setattr(module, "ledger", lambda: found)


# --- pages of methods -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_method_says_its_equation_and_when(name, unmeasured):
    text = method_pages.method_page(name)
    parts = dict(re.findall(r"^## ([^\n]+)\n\n(.*?)(?=^## |\Z)", text, re.S | re.M))
    expected = ["Equation", "When to use it", "When not", "Facts", "Options", "Claim and verdict"]
    assert list(parts) == [*expected, "Try it", "Links"]
    assert "=" in parts["Equation"] or "⊙" in parts["Equation"]
    for heading in ("When to use it", "When not"):
        assert parts[heading].strip().endswith("."), heading
    for claim in records()[name].claims:
        assert claim.sentence in parts["Claim and verdict"]
    assert f"--method {name}" in parts["Try it"]


def test_examples_name_what_the_method_needs(unmeasured):
    def example(name: str) -> list[list[str]]:
        (block,) = re.findall(r"```sh\n(.*?)```", method_pages.method_page(name), re.S)
        return [shlex.split(line) for line in block.splitlines()]

    fisher = example("fisher")
    assert [line[1] for line in fisher] == ["collect", "collect", "merge"]
    assert fisher[-1].count("--statistic") == 2
    assert "--against" in example("sens_merging")[0]
    assert [line[1] for line in example("emr")] == ["merge", "parts"]
    for name, count in (("nearswap", 1), ("slerp", 2), ("task_analogy", 3)):
        assert example(name)[0].count("--expert") == count


def test_measured_pages_have_verdict_and_numbers(measured):
    text = method_pages.method_page("ties")
    verdict = measured.verdicts("ties", records()["ties"].claims[0])["full"]
    assert f"- full experts: **{verdict.word}**" in text
    assert "| image, full, 8 tasks |" in text
    assert "2 seeds x 8 tasks" in text
    assert "slerp takes exactly 2 experts" in method_pages.method_page("slerp")


def test_the_index_lists_every_method_once_under_its_family():
    text = method_pages.index_page()
    parts = re.split(r"^## ", text, flags=re.M)[1:]
    assert [part.split("\n", 1)[0].lower() for part in parts] == [*FAMILIES]
    assert sorted(re.findall(r"\[`(\w+)`\]\(\1\.md\)", text)) == NAMES


def test_sections_end_where_the_next_begins():
    told = "Do.\n\nEquation\n--------\na = b\n\nc = d\n\nWhen not\n--------\nNever.\n"
    assert section(told, "Equation") == "a = b\n\nc = d"
    assert section(told, "When not") == "Never."
    assert section(told, "When to use") == ""


def test_a_page_of_no_method_is_noticed_and_removed(tmp_path, capsys):
    (tmp_path / "methods").mkdir()
    stray = tmp_path / "methods" / "tise.md"
    stray.write_text("gone")
    only = ["reference/errors.md"]
    assert references(only, docs=tmp_path) == 0
    assert not stray.exists()
    stray.write_text("gone")
    assert references(["--check", *only], docs=tmp_path) == 1
    assert "docs/methods/tise.md is of no method" in capsys.readouterr().err


# --- the chooser ------------------------------------------------------------------------------


def tables(text: str) -> dict[str, list[list[str]]]:
    """Heading -> names of methods in each row's cells."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        heading, body = part.split("\n", 1)
        rows = [line for line in body.splitlines() if line.startswith("| ")]
        found[heading] = [[*re.findall(r"\[`(\w+)`\]", row)] for row in rows if "[`" in row]
    return found


def test_the_chooser_lists_what_fits(unmeasured):
    text = chooser.choose_page()
    assert "Nothing has been measured yet" in text
    found = tables(text)
    for experts, title in chooser.TITLES.items():
        listed = [row[0] for row in found[title] if len(row) == 1]
        assert set(listed) >= {entry.name for entry in suitable("labels", experts)}
    assert "using the data" in text
    assert not re.search(r"\d\.\d \[", text)


def test_the_chooser_leads_to_the_best_measured(measured):
    text = chooser.choose_page()
    assert "ordered by our own measurements" in text
    rows = [line for line in text.splitlines() if line.startswith("| no data |")]
    named = re.findall(r"\[`(\w+)`\]", rows[0].split("|")[2])
    fitting = [entry.name for entry in suitable("nothing", "full", parts=False)]
    best = sorted(fitting, key=quality, reverse=True)
    assert len(named) == 3
    assert set(named) <= set(best[:5])
    body = text.split("### All that fit\n\n")[1].split("\n## ")[0]
    values = [float(v) for v in re.findall(r"\| (\d+\.\d) \[", body)]
    assert values == sorted(values, reverse=True)
    assert len(values) == len(suitable("labels", "full"))


def test_models_of_one_task_are_not_ranked_by_experts_of_many(measured):
    body = chooser.choose_page().split(chooser.TITLES["one task"])[1]
    assert not re.search(r"\d\.\d \[", body)


def test_generated_pages_are_all_there():
    assert {f"methods/{name}.md" for name in NAMES} <= set(PAGES)
    assert {"methods/index.md", "choose.md", "claims.md"} <= set(PAGES)
