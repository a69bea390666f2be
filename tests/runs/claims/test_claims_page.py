"""The page on claims and its pictures, from made-up results."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from taskloom import registry
from taskloom.errors import OutputError
from taskloom.runs.claims import ledger as ledgers
from taskloom.runs.claims.claim import Better, records
from taskloom.runs.claims.learned import held_against, learned
from taskloom.runs.claims.ledger import Ledger, Missing
from taskloom.runs.claims.measures import Mean, Scope
from taskloom.runs.claims.pictures import overview, scaling
from taskloom.runs.claims.render import claims_page, learned_page, render
from taskloom.runs.claims.results import Results, Row
from taskloom.runs.claims.suite import load_suite

from .made_up import PAIRS, TASKS, quality, results

FEW = ["average", "ties", "task_arithmetic", "knots", "slerp", "tall_masks"]


@pytest.fixture(scope="module")
def whole() -> Ledger:
    return Ledger(results())


@pytest.fixture(scope="module")
def few() -> Ledger:
    return Ledger(results(seeds=(0,), methods=FEW))


def row_of(text: str, method: str, section: str) -> list[str]:
    body = text.split(f"\n## {section}", 1)[1].split("\n## ", 1)[0]
    (line,) = [line for line in body.splitlines() if line.startswith(f"| [`{method}`]")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


# --- the ledger -------------------------------------------------------------------------------


def test_measurements_are_ranked_and_failures_come_last(whole):
    scope = Scope("image", "full", 8)
    found = whole.measurements(scope)
    assert found[0].method == "expert"
    assert {each.method for each in found[-len(PAIRS) :]} == set(PAIRS)
    values = [each.normalised.value for each in found[: -len(PAIRS)]]
    assert values == sorted(values, reverse=True)
    best = max((e.name for e in registry.entries("merge") if e.name not in PAIRS), key=quality)
    assert abs(values[1] - (quality(best) - 0.048)) < 0.05


def test_a_measurement_says_what_it_cost(few):
    found = few.measurement("ties", Scope("text", "full", 8))
    assert found.chosen == (0.3,)
    assert found.stored == 1
    assert few.measurement("expert", Scope("text", "full", 8)).stored == 8
    assert 0.4 <= found.seconds <= 3.2
    assert few.measurement("ties", Scope("text", "full", 3)) is None


def test_all_suites_together_have_all_tasks(whole, few):
    assert whole.together("ties", "full").n == "3 seeds x 16 tasks"
    assert whole.together("ties", "lora").n == "3 seeds x 8 tasks"
    assert few.together("ties", "full").n == "1 seed x 16 tasks"
    assert few.together("emr", "full") is None
    assert few.together("slerp", "full") is None


def test_a_claim_is_judged_for_the_kinds_it_is_about(whole):
    (knots,) = records()["knots"].claims
    (ties,) = records()["ties"].claims
    (slerp,) = records()["slerp"].claims
    assert list(whole.verdicts("knots", knots)) == ["lora"]
    assert list(whole.verdicts("ties", ties)) == ["full", "lora"]
    assert whole.verdicts("slerp", slerp)[""].word == "cannot be tested here"
    assert list(whole.by_suite("ties", ties, "full")) == ["image", "text"]
    only_full = Ledger(Results(rows=[r for r in whole.rows if r.experts == "full"]))
    assert only_full.verdicts("knots", knots)[""].word == "not measured yet"


def test_verdicts_follow_the_numbers(whole):
    """The drawn qualities decide: far apart they are told apart, in the right direction."""
    for method, record in records().items():
        for claim in record.claims:
            check = claim.check
            if not isinstance(check, Better) or "base" in check.than or check.experts == "lora":
                continue
            gaps = [quality(method) - quality(rival) - check.margin for rival in check.than]
            word = whole.verdicts(method, claim)["full"].word
            if min(gaps) > 0.08:
                assert word == "holds", method
            if min(gaps) < -0.08:
                assert word == "does not hold here", method


def test_what_a_suite_plans_and_the_results_lack_is_counted(monkeypatch, few):
    assert Ledger(Results()).missing == []
    (text,) = [each for each in few.missing if each.suite == "text"]
    suite = load_suite("text")
    assert text.seeds == tuple(suite.seeds)
    assert text.measured == (0,)
    pools = (len(suite.counts) + len(suite.seeds) - 1) * len(suite.experts)  # all sizes on one seed
    there = 3 * 2  # counts 2, 4, 8 of the suite's, both kinds
    methods = len(registry.entries("merge"))
    assert text.rows == (methods + 2) * pools - (len(FEW) + 2) * there
    monkeypatch.setattr(ledgers, "suite_names", list)
    assert Ledger(few.results).missing == []


# --- the page ---------------------------------------------------------------------------------


def test_without_results_there_are_claims_and_no_numbers():
    text = claims_page(Ledger(Results()))
    assert "has not been made yet" in text
    assert "img/" not in text
    assert text.count("[`") >= len(records())
    assert re.search(r"\d [\[(]", text.split("## Claims")[1].split("## How")[0]) is None
    assert row_of(text, "knots", "Claims")[2:] == [
        "normalised accuracy above that of ties, lora experts",
        "not measured yet",
    ]
    assert row_of(text, "graft", "Claims")[3] == "**cannot be tested here**"
    assert "or worse by less than 1 points" in row_of(text, "dare_linear", "Claims")[2]


def test_numbers_on_the_page_are_those_of_the_ledger(whole):
    text = claims_page(whole)
    mean = whole.measurement("ties", Scope("text", "lora", 8)).normalised
    cells = row_of(text, "ties", "Suite text, lora experts, 8 tasks")
    shown = f"{100 * mean.value:.1f} [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"
    assert cells[2:5] == [shown, "3 seeds x 8 tasks", "0.3"]
    assert re.match(r"\d+\.\d \[", cells[1])
    verdicts = row_of(text, "ties", "Verdicts")
    (claim,) = records()["ties"].claims
    for kind, verdict in whole.verdicts("ties", claim).items():
        assert f"{kind}: **{verdict.word}**" in verdicts[2]
    assert "to average, n = 3 seeds x 16 tasks" in verdicts[3]
    assert "image alone: " in verdicts[3]


def test_every_claim_has_a_verdict_and_every_failure_its_reason(whole):
    text = claims_page(whole)
    body = text.split("## Verdicts")[1].split("\n## ")[0]
    assert body.count("\n| [`") == len(ledgers.merge_claims())
    assert "[`slerp`](methods/slerp.md): slerp takes exactly 2 experts, found 8" in text


def test_counts_of_words_are_those_of_the_table(whole):
    text = claims_page(whole)
    body = text.split("## Verdicts")[1].split("\n## ")[0]
    for word in ("holds", "does not hold here", "not decided here"):
        (said,) = re.findall(rf"(\d+) {word}[,.]", body)
        assert body.count(f"**{word}**") == int(said)


def test_a_partial_run_is_said_to_be_one(few):
    text = claims_page(few)
    assert '!!! warning "Not all of it has been measured"' in text
    assert "suite text: seed 0 of seeds 0, 1, 2;" in text
    assert "An interval over one seed is over tasks only" in text
    assert "one seed: the interval is over tasks only" in row_of(text, "ties", "Verdicts")[3]
    assert "no row of emr" in row_of(text, "emr", "Verdicts")[3]
    assert "**not measured yet**" in row_of(text, "emr", "Verdicts")[2]


def test_a_whole_run_warns_of_nothing(monkeypatch, whole):
    monkeypatch.setattr(ledgers, "suite_names", list)
    assert "!!! warning" not in claims_page(Ledger(whole.results))


def test_more_than_one_suite_missing_is_listed(monkeypatch, few):
    monkeypatch.setattr(
        Ledger,
        "missing",
        [Missing("image", (0, 1), (), 7), Missing("text", (0, 1), (0, 1), 1200)],
    )
    text = claims_page(Ledger(few.results))
    assert "suite image: no seed of seeds 0, 1; 7 rows are missing; suite text:" in text
    assert "1,200 rows are missing" in text


def test_what_was_run_is_said(few):
    text = claims_page(few).split("## What was run")[1]
    assert "taskloom bench claims" in text
    assert ", ".join(TASKS["image"]) in text
    assert "commits `0123456789ab`; a drawn one; torch 0.0." in text


# --- compositions that learn ------------------------------------------------------------------


def test_compositions_have_a_page_of_their_own():
    held = [name for name in held_against() if name not in ("base", "expert")]
    text = learned_page(Ledger(results(seeds=(0,), counts=(8,), methods=[*held, "surgery", "wemoe"])))
    body = text.split("## Verdicts")[1].split("\n## ")[0]
    assert body.count("\n| [`") == sum(len(found.claims) for found in learned().values())
    assert "to average, n = 1 seed x 16 tasks" in row_of(text, "surgery", "Verdicts")[3]
    assert "no row of adamerging on" in row_of(text, "wemoe", "Verdicts")[3]
    assert "One seed was measured" in text
    assert all(found.changed in text for found in learned().values())
    run = text.split("## What was run")[1]
    assert "taskloom bench claims --learned --suite text --experts lora --seed 0 --count 8\n" in run
    assert "emr" not in text
    assert "[`surgery`]" not in claims_page(Ledger(results(seeds=(0,), methods=FEW)))


def test_compositions_are_listed_before_anything_is_measured():
    text = learned_page(Ledger(Results()))
    assert text.count("\n| [`") == sum(len(found.claims) for found in learned().values())
    assert "has not been made yet" in text


def test_every_rival_of_a_composition_is_measured_beside_it():
    for found in learned().values():
        for claim in found.claims:
            if isinstance(claim.check, Better):
                assert {*claim.check.than} <= {*held_against(), *learned()}


def test_the_page_of_compositions_is_written_with_one_picture(tmp_path):
    source, page, picture = (tmp_path / name for name in ("learned.json", "learned.md", "learned.svg"))
    source.write_text(results(seeds=(0,), counts=(8,), methods=["average", "surgery"]).text())
    assert render(source, page, picture, learned=True) == [page, picture]
    assert "surgery" in labels(picture.read_text(encoding="utf-8"))


# --- pictures, files --------------------------------------------------------------------------


def labels(svg: str) -> list[str]:
    root = ET.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_overview_has_every_method_with_a_number(whole):
    found = labels(overview(whole))
    for entry in registry.entries("merge"):
        assert found.count(entry.name) == (0 if entry.name in PAIRS else 1)
    assert "text, lora experts, 8 tasks" in found
    mean: Mean = whole.measurement("emr", Scope("image", "full", 8)).normalised
    assert f"{100 * mean.value:.1f}" in found


@pytest.mark.parametrize("of", ["accuracy", "seconds"])
def test_growing_pools_have_a_panel_for_every_method(few, of):
    found = labels(scaling(few, of))
    for name in FEW:
        assert found.count(name) == 1  # slerp, too: it has pools of two
    assert {"2", "4", "8"} <= set(found)


def test_files_are_written_and_the_same_again(tmp_path, few):
    source = tmp_path / "claims.json"
    source.write_text(few.results.text(), encoding="utf-8")
    page, picture = tmp_path / "docs" / "claims.md", tmp_path / "docs" / "img" / "claims.svg"
    written = render(source, page, picture)
    names = ["claims.md", "claims.svg", "claims_scaling.svg", "claims_seconds.svg"]
    assert [path.name for path in written] == names
    for link in re.findall(r"\]\((img/[^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).is_file()
    before = [path.read_bytes() for path in written]
    assert b"#ffffff" in before[1]  # light, whatever the page is
    render(source, page, picture)
    assert [path.read_bytes() for path in written] == before


def test_without_results_only_the_page_is_written(tmp_path):
    page = tmp_path / "claims.md"
    assert render(tmp_path / "absent.json", page, tmp_path / "claims.svg") == [page]
    assert [path.name for path in tmp_path.iterdir()] == ["claims.md"]


def test_a_file_that_is_none_changes_nothing(tmp_path):
    source, page = tmp_path / "claims.json", tmp_path / "claims.md"
    source.write_text("[]")
    page.write_text("as it was")
    with pytest.raises(OutputError, match="expected a results file"):
        render(source, page, tmp_path / "claims.svg")
    assert page.read_text() == "as it was"


def test_bars_in_reasons_do_not_break_tables(few):
    broken = Row(suite="text", experts="full", seed=0, count=8, method="emr", options={}, failed="a | b")
    text = claims_page(Ledger(few.results.model_copy(update={"rows": [*few.rows, broken]})))
    assert "emr on text, seed 0: a \\| b" in row_of(text, "emr", "Verdicts")[3].replace(" \\|", " \\|")
