"""taskloom select within a budget: what is afforded, how sure it is, and what it is good for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from taskloom.choose.contamination import Seen
from taskloom.choose.reliability import expected_loss, halves, mean_ranks, stability
from taskloom.choose.scores import knn, logme
from taskloom.errors import CheckpointError, PlanError
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.runs import budget as module
from taskloom.runs.select import select
from taskloom.store.open import open_checkpoint

from .conftest import MICRO

LABELS = 60


@pytest.fixture
def pool(base, experts, tmp_path):
    """The two experts, a copy of the first, and one whose weights are noise."""
    copy = Path(shutil.copytree(experts[0], tmp_path / "copy"))
    return {**dict(zip(MICRO["pool"], experts, strict=True)), "copy": str(copy)}


def within(base, pool, **more):
    more = {"budget": 5.0, "scores": ["logme", "knn"], "n_labels": LABELS, **more}
    return select("digits_ten", base, pool, **more)


def test_the_table_restated(base, pool):
    """Fused places, halves, losses and weights, computed again from the features."""
    found = within(base, pool, seed=3)
    advice = found.advice
    assert advice is not None
    data = load_task("digits_ten", seed=3, n_labels=LABELS)
    inputs = np.concatenate([data.train.inputs, data.validation.inputs])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    features = [Encoder.load(path).features(inputs) for path in pool.values()]
    pairs = halves(labels, draws=20, seed=3)
    tables = {
        name: np.array([[[score(f[h], labels[h]) for f in features] for h in pair] for pair in pairs])
        for name, score in (("logme", logme), ("knn", knn))
    }
    for report in advice.scores:
        assert report.ran
        wanted = stability(tables[report.score])
        assert report.halves == pytest.approx(wanted.agreement, abs=1e-6)
        assert report.reliable == wanted.reliable
    counting = [r.score for r in advice.scores if r.reliable] or ["logme", "knn"]
    whole = {"logme": [logme(f, labels) for f in features], "knn": [knn(f, labels) for f in features]}
    fused = mean_ranks(np.array([whole[name] for name in counting]))
    by_name = {each.expert: each for each in advice.sources}
    losses = expected_loss(tables["knn"].reshape(-1, 3))
    parts = mean_ranks(np.stack([tables[name] for name in counting])).reshape(-1, 3)
    wins = np.bincount(parts.argmin(1), minlength=3) / len(parts)
    for k, name in enumerate(pool):
        assert by_name[name].mean_rank == pytest.approx(fused[k])
        assert by_name[name].loss == pytest.approx(losses[k], abs=1e-6)
        if advice.reliable:
            assert by_name[name].weight == pytest.approx(wins[k])
        low, high = by_name[name].low, by_name[name].high
        assert low is not None
        assert high is not None
        assert 1 <= low <= high <= 3
    assert advice.loss_by == "knn"
    assert [each.place for each in advice.sources] == [1, 2, 3]
    assert sum(advice.weights.values()) == pytest.approx(1)
    assert 0 < advice.seconds < 300


def test_duplicates_unknown_tasks_and_what_was_seen(base, pool, tmp_path):
    bare = Path(shutil.copytree(pool["digits_mod3"], tmp_path / "bare"))
    shutil.rmtree(bare / "heads")
    found = within(base, {**pool, "bare": str(bare)}, scores=["knn", "leep"])
    assert found.advice is not None
    told = {each.expert: each for each in found.advice.sources}
    assert "the same weights as digits_parity" in told["copy"].reasons
    assert told["copy"].weight == 0
    assert told["bare"].seen is None
    assert "what it was trained on is not known or was not read" in told["bare"].reasons
    by_knn, by_leep = found.advice.scores
    assert by_knn.ran
    assert not by_leep.ran
    assert "'bare': leep needs the probabilities" in by_leep.reason
    assert told["digits_parity"].seen == Seen(0, LABELS)


def test_a_source_that_was_trained_on_the_target_is_marked(base, pool):
    """Its data are the target's: all that is labelled for training is in them, the validation is not."""
    two = {name: pool[name] for name in MICRO["pool"]}
    found = within(base, two, trained_on={"digits_mod3": "digits_ten"}).advice
    assert found is not None
    told = {each.expert: each for each in found.sources}["digits_mod3"]
    count = len(load_task("digits_ten", n_labels=LABELS).train)
    assert told.seen == Seen(count, LABELS)
    assert f"has seen {count} of {LABELS} target examples" in told.reasons
    assert [w for w in found.warnings if w.startswith("digits_mod3 was trained on")]
    assert not [w for w in found.warnings if w.startswith("digits_parity")]


def test_seen_restated(base, pool):
    found = within(base, pool)
    assert found.advice is not None
    data = load_task("digits_ten", n_labels=LABELS)
    target = [x.tobytes() for x in (*data.train.inputs, *data.validation.inputs)]
    for name in MICRO["pool"]:
        source = {x.tobytes() for x in load_task(name).train.inputs}
        told = {each.expert: each for each in found.advice.sources}[name].seen
        assert told is not None
        assert (told.count, told.of) == (sum(x in source for x in target), LABELS)


def test_few_labels_are_said_to_be_few(base, pool):
    """Of two equal models nothing can tell which is better, whatever the labels."""
    equal = {"one": pool["copy"], "two": pool["digits_parity"]}
    found = within(base, equal, n_labels=24).advice
    assert found is not None
    assert not found.reliable
    assert found.sentence.startswith("With 24 labels no score is reliable: none orders the 2 sources")
    assert "0.50 is needed" in found.sentence
    assert found.weights == {"one": 1.0, "two": 0.0}  # the same weights count once
    assert {each.reason for each in found.scores} == {""}


def test_one_source_has_nothing_to_order(base, pool):
    found = within(base, {"one": pool["copy"]}).advice
    assert found is not None
    assert found.sentence == "one is the only source: there is nothing to choose."
    assert found.weights == {"one": 1.0}
    assert found.scores[0].reason == "one source: nothing to order"
    with pytest.raises(CheckpointError, match="the pool is empty"):
        within(base, {})


class Slow:
    """A clock that runs a given number of seconds for every look at it."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def test_what_does_not_fit_is_left_out_and_named(base, pool, monkeypatch):
    within(base, pool)  # features are stashed
    slow = Slow(0.0)
    monkeypatch.setattr(module.time, "perf_counter", slow)
    plain = module.rank

    def timed(features, *words, **more):
        slow.now += {"logme": 1.0, "knn": 50.0, "gbc": 10.0}[words[1][0]] * len(features)
        return plain(features, *words, **more)

    monkeypatch.setattr(module, "rank", timed)
    found = within(base, pool, scores=["logme", "knn", "gbc"], budget=1.0).advice
    assert found is not None
    by_logme, by_knn, by_gbc = found.scores
    assert by_logme.ran
    assert by_logme.halves is None
    assert by_logme.reason == "no time to check it on halves of the labels (about 60.0 s)"
    assert not by_knn.ran
    assert by_knn.estimated == pytest.approx(150)
    assert by_knn.reason.startswith("takes about 150.0 s, and ")
    assert not by_gbc.ran
    assert by_gbc.reason == "takes about 30.0 s, and 0.0 s are left"
    assert found.sentence.endswith("check the scores on halves of the labels.")
    monkeypatch.setattr(module.time, "perf_counter", Slow(70.0))
    with pytest.raises(PlanError, match="a budget of 1 minutes was spent on loading"):
        within(base, pool, budget=1.0)


def test_sources_that_cannot_be_run_are_told_by_their_texts_alone(base, pool, monkeypatch):
    monkeypatch.setattr("taskloom.runs.select.run_time", lambda *words: 1e9)
    found = within(base, pool, scores=["logme", "textemb"]).advice
    assert found is not None
    assert [each.ran for each in found.scores] == [False, True]
    assert found.scores[0].reason == "running the sources does not fit into the budget"
    assert found.warnings[-1].startswith("the sources were not run")
    with pytest.raises(PlanError, match="no score could be run within 5 minutes: running the sources"):
        within(base, pool, scores=["logme"])


def test_surrogates_and_a_budget_go_together(base, pool, tmp_path):
    two = {name: pool[name] for name in MICRO["pool"]}
    found = within(base, two, scores=["logme"], surrogates=tmp_path / "maps")
    assert found.advice is not None
    assert len(found.surrogates) == 2


def test_the_merge_that_is_written_can_be_carried_out(base, pool, tmp_path, cli):
    words = ["select", "digits_ten", "--base", base, "--labels", LABELS, "--score", "knn"]
    for name, path in pool.items():
        words += ["--expert", f"{name}={path}"]
    plan = tmp_path / "merge.yaml"
    seen = ["--trained-on", "digits_mod3=digits_ten"]
    status, out, err = cli(*words, *seen, "--budget", 5, "--write-merge", plan)
    assert status == 0, err
    assert "Sources by all scores that count" in out
    assert "Scores within 5 minutes" in out
    assert "warning: digits_mod3 was trained on" in err
    read = yaml.safe_load(plan.read_text())
    weights = {each["model"]: each["parameters"]["weight"] for each in read["models"]}
    assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    status, out, err = cli(*words, "--budget", 5, "--json")
    advice = json.loads(out)["advice"]
    assert {e["expert"]: e["weight"] for e in advice["sources"] if e["weight"]} == {
        name: pytest.approx(weights[path], abs=1e-6) for name, path in pool.items() if path in weights
    }
    status, _, err = cli("merge", plan, tmp_path / "merged")
    assert status == 0, err
    start, merged = open_checkpoint(base), open_checkpoint(str(tmp_path / "merged"))
    for name, info in start.tensors.items():
        if info.is_float:
            first = start.read(name).double()
            wanted = first + sum(
                w * (open_checkpoint(path).read(name).double() - first) for path, w in weights.items()
            )
            torch.testing.assert_close(merged.read(name).double(), wanted, atol=1e-5, rtol=0)


def test_impossible_words_are_refused(base, pool):
    with pytest.raises(PlanError, match="a merge is written from the advice that a budget gives"):
        within(base, pool, budget=None, write_merge="x.yaml")
    with pytest.raises(PlanError, match=r"minutes above 0 .* found 0 and"):
        within(base, pool, budget=0.0)
    with pytest.raises(
        PlanError, match=r"found 5 and task_vector_cosine\. Leave out task_vector_cosine"
    ):
        within(base, pool, scores=["task_vector_cosine"])
