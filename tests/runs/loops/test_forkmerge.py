"""ForkMerge: the card's merge step, the rule restated, and no negative transfer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.errors import PlanError
from taskloom.runs.loops.coefficients import ALPHAS, search_coefficients
from taskloom.runs.loops.forkmerge import forkmerge, search_branches

from .toy import facts, hill, play, setting

BODIES = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, -1.0]])


def card(w):
    """Validation of the card: 1 - |w - (.75, .25)|^2."""
    return 1 - float(((np.asarray(w) - [0.75, 0.25]) ** 2).sum())


def test_golden_the_merge_step_of_the_card():
    values = [card(body) for body in BODIES]
    assert values == pytest.approx([0.875, 0.875, -1.125])
    found = search_coefficients(values, lambda weights: card(np.array(weights) @ BODIES))
    assert found.weights == pytest.approx((0.5, 0.5, 0.0))
    assert found.value == pytest.approx(1.0)
    tried = [trial.value for trial in found.trials]
    first = [0.875, 0.944444, 0.977041, 0.992188, 0.998457, 1.0]
    second = [0.982438, 0.940972, 0.886834, 0.826531, 0.763889]
    assert tried == pytest.approx([*first, *second], abs=1e-6)
    assert [trial.kept for trial in found.trials] == [True] * 6 + [False] * 5


def greedy(values, score, alphas):
    """The released loop once more: alpha 0 is scored too, the best so far begins with nothing."""
    ranked = sorted(range(len(values)), key=lambda b: values[b], reverse=True)
    lam = dict.fromkeys(range(len(values)), 0.0)
    lam[ranked[0]] = 1.0
    best = -np.inf
    for i, name in enumerate(ranked[1:]):
        bound, chosen = sum(lam.values()) / (i + 1), 0.0
        for alpha in alphas:
            lam[name] = alpha * bound
            total = sum(lam.values())
            value = score(tuple(lam[b] / total for b in range(len(values))))
            if value > best:
                best, chosen = value, lam[name]
        lam[name] = chosen
    total = sum(lam.values())
    return tuple(lam[b] / total for b in range(len(values))), best


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=2, max_size=4),
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
def test_the_search_is_the_released_one(bodies, goal):
    bodies = np.round(np.array(bodies), 3)
    score = lambda w: -float(((np.array(w) @ bodies - np.round(goal, 3)) ** 2).sum())  # noqa: E731
    values = [score(tuple(row)) for row in np.eye(len(bodies))]
    found = search_coefficients(values, score)
    wanted, best = greedy(values, score, ALPHAS)
    assert found.value == pytest.approx(best, abs=1e-9)
    assert found.value >= max(values)  # never worse than the best branch
    if len({round(v, 9) for v in values}) == len(values):
        assert score(found.weights) == pytest.approx(score(wanted), abs=1e-9)


def test_the_known_best_of_two_branches_is_found():
    """On a line between two branches with five shares the best of all shares is the optimum's."""
    for share, alpha in zip((1 / 6, 2 / 7, 3 / 8, 4 / 9, 1 / 2), ALPHAS[1:], strict=True):
        found = search_coefficients([0.0, -1.0], lambda w, s=share: 1 - abs(w[1] - s))
        assert found.weights[1] == pytest.approx(alpha / (1 + alpha)) == pytest.approx(share)


@pytest.mark.parametrize(("values", "alphas"), [([], ALPHAS), ([1.0], (0.0, 1.5))])
def test_what_cannot_be_searched(values, alphas):
    with pytest.raises(PlanError, match=r"there is none|no share"):
        search_coefficients(values, lambda _: 0.0, alphas)


#: the target and a friend pull one way, a foe the other
TASKS = {"target": hill([1.0, 1.0]), "friend": hill([1.0, 0.9]), "foe": hill([-3.0, -3.0])}


def test_branches_ranking_and_merge_of_a_run(tmp_path):
    on = setting(tmp_path, TASKS, [0.0, 0.0], rate=0.2)
    plan = forkmerge(on, targets=("target",), rounds=2, steps=4, top=(0, 1, 2), rank_steps=2)
    rounds, _ = play(tmp_path, on, plan)
    mixes = [set(mix) for mix in on.shop.tuned]
    assert mixes[:2] == [{"target", "friend"}, {"target", "foe"}]  # ranking
    branches = [{"target"}, {"target", "friend"}, {"target", "friend", "foe"}]
    assert mixes[2:] == branches * 2
    assert [entry["name"] for entry in rounds[1].merged] == ["top 0", "top 1", "top 2"]
    assert [each.steps for each in rounds] == [0, 2 * 2 + 3 * 4, 3 * 4]
    assert [score.task for score in rounds[1].scores] == ["target"]
    kept = [trial for trial in rounds[1].tried if trial["kept"]]
    assert kept[-1]["value"] == pytest.approx(rounds[1].mean, abs=1e-6)
    assert sum(entry["weight"] for entry in rounds[1].merged) == pytest.approx(1)


def test_branch_zero_keeps_negative_transfer_out(tmp_path):
    losses = {"target": TASKS["target"], "foe": TASKS["foe"]}
    on = setting(tmp_path, losses, [0.0, 0.0], rate=0.2)
    plan = forkmerge(on, targets=("target",), rounds=3, steps=4, top=(0, 3, 5))
    rounds, _ = play(tmp_path, on, plan)
    rivals = {name: make(None) for name, make in plan.compared.items()}
    assert set(rivals) == {"start", "single-task", "equal-weight"}
    assert rounds[-1].mean >= rivals["single-task"].reading.mean - 1e-9
    assert rounds[-1].mean > rivals["equal-weight"].reading.mean + 0.1
    # 3 and 5 are more than the one auxiliary task: equal branches are one, and nothing is ranked
    assert [entry["name"] for entry in rounds[1].merged] == ["top 0", "top 1"]
    assert rivals["single-task"].steps == rivals["equal-weight"].steps == 12


def test_the_coefficients_of_a_merge_are_the_best_of_all_on_the_grid(tmp_path):
    """Two branches on a quadratic: every share of the grid by brute force."""
    on = setting(tmp_path, TASKS, [0.0, 0.0], rate=0.2)
    tuned = {
        "top 0": on.shop.tune(on.start, {"target": 1.0}, steps=2, seed=1),
        "top 1": on.shop.tune(on.start, {"target": 1.0, "friend": 1.0}, steps=20, seed=1),
    }
    found = search_branches(on, tuned, ("target",))
    paths = [each.path for each in tuned.values()]
    values = [on.shop.read(path, ["target"]).mean for path in paths]
    lead = int(np.argmax(values))
    grid = []
    for alpha in ALPHAS:
        w = sum(
            (1.0 if place == lead else alpha) / (1 + alpha) * np.array(on_disk(path))
            for place, path in enumerate(paths)
        )
        grid.append(1 - 0.5 * float(((w - 1.0) ** 2).sum()))
    assert found.value == pytest.approx(max(grid), abs=1e-6)


def on_disk(path):
    from .toy import read_model

    return read_model(path).tolist()


def test_a_run_that_was_interrupted_ends_like_one_that_was_not(tmp_path):
    def plan(on):
        return forkmerge(on, targets=("target",), rounds=2, steps=3, top=(0, 1), rank_steps=2)

    whole = setting(tmp_path / "whole", TASKS, [0.0, 0.0], rate=0.2)
    wanted, _ = play(tmp_path / "whole", whole, plan(whole))
    for done in (1, 3, 5):  # amid the ranking, the first round and the second
        there = tmp_path / str(done)
        on = setting(there, TASKS, [0.0, 0.0], rate=0.2, fail_after=done)
        with pytest.raises(KeyboardInterrupt):
            play(there, on, plan(on))
        on.shop.fail_after = None
        found, _ = play(there, on, plan(on))
        assert facts(found) == facts(wanted)
        assert sorted(on.shop.tuned) == sorted(whole.shop.tuned)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": ("targte",)}, "Did you mean 'target'"),
        ({"targets": ()}, "expected targets and auxiliary tasks, found 0"),
        ({"targets": ("target", "friend", "foe")}, "found 3 targets among 3"),
        ({"targets": ("target",), "top": ()}, "no branch"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, options, said):
    on = setting(tmp_path, TASKS, [0.0, 0.0])
    with pytest.raises(PlanError, match=said):
        forkmerge(on, **options)


def test_shares_of_the_branches_are_those_of_the_released_code(tmp_path):
    """1 / number of targets for each target, 1 / K for each of the best K."""
    losses = {**TASKS, "other": hill([1.0, 1.0])}
    on = setting(tmp_path, losses, [0.0, 0.0], rate=0.2)
    seen = []
    tune = on.shop.tune
    on.shop.tune = lambda start, mix, **more: seen.append(mix) or tune(start, mix, **more)
    plan = forkmerge(on, targets=("target", "other"), rounds=1, steps=2, top=(0, 2), rank_steps=1)
    play(tmp_path, on, plan)
    assert seen[-2:] == [
        {"target": 0.5, "other": 0.5},
        {"target": 0.5, "other": 0.5, "friend": 0.5, "foe": 0.5},
    ]
    assert not any(len(mix) == 3 for mix in seen)  # all auxiliary tasks or none: nothing to rank
    assert len(list(itertools.chain.from_iterable(seen))) == 6
