"""Learned compositions as rows: every one is run end to end on a small text suite, and sees no test."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from taskloom import registry
from taskloom.errors import PlanError, UnknownName
from taskloom.evaluation.data import SealedSplit
from taskloom.learn.probe import Probe
from taskloom.runs.claims import composing, learned, measure
from taskloom.runs.claims.composing import compose, problem_of
from taskloom.runs.claims.learned import FAMILIES, Learned, given_options, known, row_options
from taskloom.runs.claims.measure import Measurer
from taskloom.runs.claims.run import Wanted, claims
from taskloom.runs.claims.scorer import Scorer
from taskloom.runs.claims.stage import lay_ground, set_stage
from taskloom.runs.claims.suite import load_suite

from .suites import text_suite

ALL = learned.learned()
#: option -> what a test has time for
FEWER = {"steps": 2, "epochs": 2, "levels": 3, "evaluations": 4, "rank_steps": 1, "probe_steps": 1}


def shorter(found: Learned) -> Learned:
    fields = registry.get(found.run.family, found.run.of).schema.model_fields
    fewer = {name: n for name, n in FEWER.items() if name in fields and found.run.family != "loop"}
    if found.run.family == "loop":
        fewer = {"rounds": 2, **({"rank_steps": 1} if "rank_steps" in fields else {})}
    run = found.run.model_copy(update={"options": {**found.run.options, **fewer}, "examples": 16})
    return found.model_copy(update={"run": run})


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return lay_ground(load_suite(text_suite(tmp_path_factory.mktemp("words"))), 0)


@pytest.fixture(scope="module")
def stages(ground):
    return {kind: set_stage(ground, kind, 2) for kind in ("full", "lora")}


@pytest.fixture(scope="module")
def scorer(ground):
    return Scorer(ground.encoder, ground.tasks, ground.heads, ground.suite.evaluation)


@pytest.fixture
def short(monkeypatch):
    few = {name: shorter(found) for name, found in ALL.items()}
    for module in (learned, measure):
        monkeypatch.setattr(module, "learned", lambda: few)
    return few


@pytest.mark.parametrize("method", ALL)
def test_it_is_run_end_to_end(method, stages, scorer, short):
    run = short[method].run
    stage = stages[run.experts or "full"]
    row = Measurer(stage, scorer).row(method, 2)
    assert row.failed is None
    assert list(row.scores) == ["first", "second"]
    assert all(score.n == scorer.n_test(task) for task, score in row.scores.items())
    assert row.seconds > 0
    assert row.stored_bytes >= stage.base_bytes
    assert row.options == row_options(run, stage.ground.suite)
    if run.family != "loop":
        assert row.options["sees"] == run.sees


def test_every_composition_that_is_registered_has_rows():
    runs = {(found.run.family, found.run.of) for found in ALL.values()}
    wanted = {(family, e.name) for family in FAMILIES for e in registry.entries(family)}
    # the greedy soup of validation is a merging method of the ledger already, the search over PCB's
    # and others' numbers is what the ledger does for every method's scale
    assert wanted - runs <= {("fit", "greedy_soup"), ("fit", "pcb_search")}
    assert runs <= wanted


def test_names_are_of_one_row_only_and_known():
    assert not set(ALL) & {entry.name for entry in registry.entries("merge")}
    assert known("atlas") is ALL["atlas"]
    assert known("ties").family == "elect and average"
    assert known("nobody") is None


@pytest.mark.parametrize("method", ALL)
def test_options_exist_and_what_was_changed_is_said(method, ground):
    found = ALL[method]
    entry = registry.get(found.run.family, found.run.of)
    options = given_options(found.run, ground.suite)
    assert set(options) <= set(entry.schema.model_fields)
    budget = {"steps", "epochs", "rounds"} & set(found.run.options)
    assert bool(found.changed) == bool(budget), "fewer steps are said, and nothing else is"
    for claim in found.claims:
        for rival in getattr(claim.check, "than", ()):
            assert rival in ("base", "expert", *ALL) or registry.get("merge", rival)
            assert rival != method


def test_what_needs_labels_sees_validation_and_the_rest_inputs_without_labels(stages, ground):
    for method, found in ALL.items():
        entry = registry.get(found.run.family, found.run.of)
        if found.run.family == "loop":
            continue
        assert (found.run.sees == "labels") == ("labels" in entry.needs), method
    on = problem_of(stages["full"], 2, ALL["atlas"].run)
    seen = np.concatenate([labels.numpy() for _, labels in on.batches["first"]])
    assert sorted(seen) == sorted(ground.tasks[0].validation.labels)
    assert on.validation == {}
    on = problem_of(stages["full"], 2, ALL["adamerging"].run)
    assert all(labels is None for _, labels in on.batches["first"])
    assert on.batches["first"].count == 60, "of 256 that are asked for there are 60"


def test_a_problem_holds_what_some_expert_changed_and_runs_as_the_whole_model(stages, ground):
    stage = stages["full"]
    on = problem_of(stage, 2, ALL["adamerging"].run)
    assert set(on.base.tensors) == set(stage.pool.tensors)
    assert not any("embeddings" in name for name in on.probes["first"].weights)
    inputs, _ = next(iter(on.batches["first"]))
    whole = Probe.of_encoder(ground.encoder, ground.heads["first"])
    assert torch.equal(on.probes["first"].logits(inputs), whole.logits(inputs))


def test_the_wrong_kind_of_experts_is_a_row_that_says_so(stages, scorer):
    row = Measurer(stages["full"], scorer).row("cat", 2)
    assert row.failed == "cat takes LoRA adapters, and these experts are of another kind"
    row = Measurer(stages["lora"], scorer).row("atm", 2)
    assert row.failed == "atm takes full fine-tunes, and these experts are of another kind"


def test_nothing_looks_at_test_before_it_is_scored(stages, ground, monkeypatch, tmp_path, short):
    opened = Counter()
    real = SealedSplit.open
    monkeypatch.setattr(
        SealedSplit, "open", lambda self, who: opened.update([self._task]) or real(self, who)
    )
    fresh = lay_ground(ground.suite, 0)
    scorer = Scorer(fresh.encoder, fresh.tasks, fresh.heads, fresh.suite.evaluation)
    for number, method in enumerate(("adamerging", "surgery", "atm", "scale_search")):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = compose(stages["full"], scorer, 2, short[method].run, folder)
        assert not opened
    found.accuracy("first")
    found.accuracy("first")
    assert opened == {"first": 1}


def test_a_fit_that_does_nothing_scores_as_the_merge_it_starts_from(stages, scorer, tmp_path):
    from taskloom.merging.recipe import Recipe
    from taskloom.runs.claims.making import make

    stage = stages["full"]
    run = ALL["surgery"].run.model_copy(update={"options": {"steps": 0}})
    found = compose(stage, scorer, 2, run, tmp_path)
    merged = make(stage, 2, Recipe.of("average"), None, tmp_path)
    with torch.inference_mode():
        for task in ("first", "second"):
            right = total = 0
            for batch, labels in scorer.examples(task):
                pooled = stage.ground.encoder.pooled(batch, merged.weights(task)).numpy()
                said = stage.ground.heads[task].predict(pooled)
                right, total = right + int((said == labels.numpy()).sum()), total + len(labels)
            assert found.accuracy(task) == right / total
    assert found.stored_bytes > merged.stored_bytes


def test_a_loop_shares_the_steps_of_an_expert(ground):
    options = given_options(ALL["atm"].run, ground.suite)
    assert options["rounds"] * options["steps"] == ground.suite.experts["full"]["steps"] == 6
    suite = ground.suite.model_copy(update={"experts": {"full": {"steps": 5}}})
    with pytest.raises(PlanError, match=r"atm: 6 rounds share .* says 5"):
        given_options(ALL["atm"].run, suite)
    with pytest.raises(PlanError, match="says none"):
        given_options(ALL["cold"].run, ground.suite.model_copy(update={"experts": {"lora": {}}}))


def test_they_are_asked_for_by_name_and_a_run_without_names_has_merges_only():
    assert not set(Wanted().names()) & set(ALL)
    assert Wanted(methods=["wemoe", "ties", "base"]).names() == ["base", "ties", "wemoe"]
    with pytest.raises(UnknownName, match="'wemo'"):
        Wanted(methods=["wemo"]).names()


def test_rows_are_written_once_and_by_name(ground, tmp_path, short, monkeypatch):
    folder = tmp_path / "words"
    folder.mkdir()
    suite, output = text_suite(folder), tmp_path / "claims.json"
    wanted = Wanted(kinds=["full"], counts=[2], methods=["surgery", "cat"])
    found = claims([suite], wanted, output=output)
    assert [(row.method, row.failed is None) for row in found.rows] == [
        ("surgery", True),
        ("cat", False),
    ]
    monkeypatch.setattr(composing, "compose", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(measure, "compose", lambda *_: pytest.fail("measured again"))
    claims([suite], wanted, output=output)
