"""Verdicts from hand-made rows whose answer is known."""

from __future__ import annotations

import pytest

from taskloom.errors import DataError
from taskloom.runs.claims.claim import Better, Retains, Untestable
from taskloom.runs.claims.measures import Mean, Scope, index
from taskloom.runs.claims.results import Row
from taskloom.runs.claims.verdict import Comparison
from taskloom.runs.claims.verdict import judge as judge_index

TASKS = ("a", "b", "c", "d")
TEXT, IMAGE = Scope("text", "full", 4), Scope("image", "full", 4)


def judge(check, method, found, scopes):
    return judge_index(check, method, index(found), scopes)


def row(method, values, *, seed=0, suite="text", experts="full", failed=None):
    scores = values and {t: {"value": v, "n": 50} for t, v in zip(TASKS, values, strict=True)}
    return Row(suite=suite, experts=experts, seed=seed, count=4, method=method, options={},
               scores=scores, failed=failed)  # fmt: skip


def rows(suite="text", *, seeds=(0,), **methods):
    found = []
    for seed in seeds:
        found.append(row("expert", [1.0] * 4, seed=seed, suite=suite))
        found += [row(name, values, seed=seed, suite=suite) for name, values in methods.items()]
    return found


# differences to ties: one about +0.1 throughout, mixed about 0, low about -0.1
FOUND = rows(
    ties=[0.50, 0.60, 0.70, 0.80],
    one=[0.60, 0.71, 0.79, 0.90],
    mixed=[0.60, 0.50, 0.80, 0.70],
    low=[0.40, 0.51, 0.59, 0.70],
)


@pytest.mark.parametrize(
    ("method", "word"),
    [("one", "holds"), ("mixed", "not decided here"), ("low", "does not hold here")],
)
def test_a_comparison_is_decided_by_its_interval(method, word):
    found = judge(Better(than=["ties"]), method, FOUND, [TEXT])
    assert found.word == word
    (comparison,) = found.comparisons
    assert comparison.against == "ties"
    assert comparison.mean.n == "1 seed x 4 tasks"
    assert found.why == "one seed: the interval is over tasks only"


def test_the_worst_rival_counts():
    for than, word in [
        (["ties", "low"], "holds"),
        (["ties", "mixed"], "not decided here"),  # +0.1 but from -0.02 to +0.22
        (["mixed", "better_yet", "ties"], "does not hold here"),
    ]:
        found = [*FOUND, row("better_yet", [0.9, 0.9, 0.95, 1.0])]
        assert judge(Better(than=than), "one", found, [TEXT]).word == word, than


def test_the_margin_moves_the_mark():
    assert judge(Better(than=["ties"], margin=0.05), "one", FOUND, [TEXT]).word == "holds"
    assert judge(Better(than=["ties"], margin=0.2), "one", FOUND, [TEXT]).word == "does not hold here"
    assert judge(Better(than=["ties"], margin=-0.3), "mixed", FOUND, [TEXT]).word == "holds"


def test_an_interval_that_touches_its_mark_decides_nothing():
    equal = rows(ties=[0.5, 0.6, 0.7, 0.8], same=[0.5, 0.6, 0.7, 0.8])
    found = judge(Better(than=["ties"]), "same", equal, [TEXT])
    assert found.word == "not decided here"
    assert found.comparisons[0].mean.low == found.comparisons[0].mean.high == 0
    for low, high in [(0.0, 0.2), (-0.2, 0.0)]:
        assert Comparison("x", 0.0, Mean(0.1, low, high, (0,), 4)).word == "not decided here"


def test_the_yardstick_is_the_one_that_the_claim_names():
    """By accuracy it gains on the easy tasks; by the experts' accuracy it loses on a weak one."""
    found = [
        row("expert", [0.1, 1.0, 1.0, 1.0]),
        row("ties", [0.10, 0.50, 0.50, 0.50]),
        row("one", [0.06, 0.51, 0.51, 0.51]),
    ]
    accuracy = judge(Better(than=["ties"], yardstick="accuracy"), "one", found, [TEXT])
    share = judge(Better(than=["ties"]), "one", found, [TEXT])
    assert accuracy.comparisons[0].mean.value == pytest.approx((-0.04 + 0.03) / 4)
    assert share.comparisons[0].mean.value == pytest.approx((-0.4 + 0.03) / 4)


def test_the_base_is_a_rival_too():
    found = [*FOUND, row("base", [0.3, 0.4, 0.5, 0.6])]
    assert judge(Better(than=["base"], yardstick="accuracy"), "ties", found, [TEXT]).word == "holds"


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([0.995, 0.998, 1.0, 0.999], "holds"),
        ([0.97, 1.0, 0.99, 1.01], "not decided here"),
        ([0.9, 0.91, 0.92, 0.9], "does not hold here"),
    ],
)
def test_a_share_of_the_experts_accuracy(values, word):
    found = [row("expert", [0.5] * 4), row("tall_masks", [0.5 * v for v in values])]
    verdict = judge(Retains(at_least=0.99), "tall_masks", found, [TEXT])
    assert verdict.word == word
    assert verdict.comparisons[0].against == "expert"
    assert verdict.comparisons[0].mean.value == pytest.approx(sum(values) / 4)


# --- what cannot be said ----------------------------------------------------------------------


def test_an_untestable_claim_gives_its_reason():
    found = judge(Untestable(why="no control task"), "task_negation", FOUND, [TEXT])
    assert (found.word, found.why) == ("cannot be tested here", "no control task")


def test_a_claim_about_other_experts():
    found = judge(Better(than=["ties"], experts="lora"), "one", FOUND, [TEXT])
    assert (found.word, found.why) == ("cannot be tested here", "the claim is about lora experts")


@pytest.mark.parametrize(("method", "rival"), [("absent", "ties"), ("one", "absent")])
def test_a_missing_row_is_not_measured_yet(method, rival):
    found = judge(Better(than=[rival]), method, FOUND, [TEXT])
    assert (found.word, found.why) == ("not measured yet", "no row of absent on text")


def test_no_results_at_all():
    assert judge(Better(than=["ties"]), "one", [], [TEXT]).word == "not measured yet"
    assert judge(Better(than=["ties"]), "one", [], []).word == "cannot be tested here"


@pytest.mark.parametrize("failing", ["one", "ties"])
def test_a_failed_row_of_either_side_cannot_be_tested_and_says_why(failing):
    found = [each for each in FOUND if each.method != failing]
    found.append(row(failing, None, failed="all task vectors are zero"))
    verdict = judge(Better(than=["ties"]), "one", found, [TEXT])
    assert verdict.word == "cannot be tested here"
    assert verdict.why == f"{failing} on text, seed 0: all task vectors are zero"


def test_one_failed_seed_is_not_passed_over():
    found = rows(seeds=(0, 1), ties=[0.5, 0.6, 0.7, 0.8], one=[0.6, 0.7, 0.8, 0.9])
    found += [row("expert", [1.0] * 4, seed=2), row("ties", [0.5] * 4, seed=2)]
    found.append(row("one", None, seed=2, failed="out of memory"))
    verdict = judge(Better(than=["ties"]), "one", found, [TEXT])
    assert (verdict.word, verdict.why) == (
        "cannot be tested here",
        "one on text, seed 2: out of memory",
    )


def test_a_failure_says_more_than_a_missing_row():
    found = [row("expert", [1.0] * 4), row("one", None, failed="no matrices")]
    assert "no matrices" in judge(Better(than=["ties"]), "one", found, [TEXT]).why


def test_seeds_that_one_side_lacks_do_not_count():
    found = rows(seeds=(0, 1), ties=[0.5, 0.6, 0.7, 0.8])
    found.append(row("one", [0.6, 0.71, 0.8, 0.9], seed=1))
    verdict = judge(Better(than=["ties"]), "one", found, [TEXT])
    assert verdict.comparisons[0].mean.seeds == (1,)
    assert judge(Better(than=["ties"]), "one", found[:-1], [TEXT]).word == "not measured yet"


def test_no_common_seed_is_not_measured_yet():
    found = [
        *rows(ties=[0.5] * 4),
        row("expert", [1.0] * 4, seed=1),
        row("one", [0.6] * 4, seed=1),
    ]
    verdict = judge(Better(than=["ties"]), "one", found, [TEXT])
    assert (verdict.word, verdict.comparisons) == ("not measured yet", ())


# --- suites together --------------------------------------------------------------------------


def test_suites_together_have_the_tasks_of_both():
    image = rows("image", ties=[0.5, 0.6, 0.7, 0.8], one=[0.62, 0.7, 0.81, 0.9])
    verdict = judge(Better(than=["ties"]), "one", [*FOUND, *image], [TEXT, IMAGE])
    assert verdict.word == "holds"
    mean = verdict.comparisons[0].mean
    gains = [0.1, 0.11, 0.09, 0.1, 0.12, 0.1, 0.11, 0.1]
    assert (mean.value, mean.tasks) == (pytest.approx(sum(gains) / 8), 8)


def test_suites_that_disagree_decide_nothing_together():
    image = rows("image", ties=[0.5, 0.6, 0.7, 0.8], one=[0.4, 0.49, 0.61, 0.7])
    found = [*FOUND, *image]
    check = Better(than=["ties"])
    assert judge(check, "one", found, [TEXT]).word == "holds"
    assert judge(check, "one", found, [IMAGE]).word == "does not hold here"
    assert judge(check, "one", found, [TEXT, IMAGE]).word == "not decided here"


def test_kinds_of_experts_are_not_mixed_nor_a_suite_taken_twice():
    for wrong in ([TEXT, Scope("image", "lora", 4)], [TEXT, TEXT]):
        with pytest.raises(DataError, match="cannot be taken together"):
            judge(Better(than=["ties"]), "one", FOUND, wrong)
