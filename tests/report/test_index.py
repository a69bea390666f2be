import math

import pytest

from taskloom.runs.report.index import Index

from .fixture import empty, realistic, score


def changed(**changes):
    return Index(realistic().model_copy(update=changes))


def test_mean_and_interval_restated():
    index = Index(realistic())
    scores = [s for s in index.result.scores if s.model == "ties" and s.task in
              {t.name for t in index.result.tasks if t.role == "pool"}]  # fmt: skip
    mean = index.mean("ties")
    assert mean.value == pytest.approx(sum(s.value for s in scores) / 8)
    assert mean.low == pytest.approx(
        mean.value - math.sqrt(sum((s.value - s.low) ** 2 for s in scores)) / 8
    )
    assert mean.high == pytest.approx(
        mean.value + math.sqrt(sum((s.high - s.value) ** 2 for s in scores)) / 8
    )
    assert (mean.n, mean.tasks) == (sum(s.n for s in scores), 8)


def test_targets_and_validation_do_not_enter_the_mean():
    scores = [score("ties", "trec6", 0.5, 100), score("ties", "quotes", 1.0, 100),
              score("ties", "subj", 1.0, 100, split="validation")]  # fmt: skip
    assert changed(scores=scores).mean("ties").value == 0.5


def test_a_model_scored_on_fewer_tasks_comes_after_those_scored_on_all():
    result = realistic()
    kept = [s for s in result.scores if s.model != "ties" or s.task == "sms_spam"]
    ranked = Index(result.model_copy(update={"scores": kept})).ranked
    assert ranked[-1][0].name == "ties"
    assert ranked[-1][1].tasks == 1


def test_not_finite_scores_count_as_missing():
    bad = score("ties", "trec6", 0.5, 100, value=math.nan)
    index = changed(scores=[bad])
    assert index.score("ties", "trec6") is None
    assert index.mean("ties") is None


def test_gains_say_when_intervals_do_not_overlap():
    scores = [score("base", "trec6", 0.9, 500), score("ties", "trec6", 0.5, 500),
              score("base", "subj", 0.9, 500), score("ties", "subj", 0.89, 500)]  # fmt: skip
    gains = {g.task.name: g for g in changed(scores=scores).gains("ties")}
    assert gains["trec6"].clear
    assert gains["trec6"].value == pytest.approx(-0.4)
    assert not gains["subj"].clear


def test_repeated_titles_are_told_apart_by_name():
    models = [m.model_copy(update={"title": "Same"}) for m in realistic().models]
    index = changed(models=models)
    assert len({index.label(m.name) for m in models}) == len(models)


def test_flags_are_the_pools_verdict_not_a_targets():
    index = Index(realistic())
    assert index.winners == {"ties"}
    assert index.refused == {"slerp"}
    targets = changed(guards=[g for g in realistic().guards if g.scope != "pool"])
    assert "expert:emotion" in targets.winners


def test_nothing_gives_nothing():
    index = Index(empty())
    assert (index.ranked, index.base, index.gains("x"), index.scored_tasks()) == ([], None, [], [])
    assert index.any_label("unknown") == "unknown"
