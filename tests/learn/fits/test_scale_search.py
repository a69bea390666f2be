"""Scale search: the grid of task arithmetic, golden losses of the cards, Bayesian search, bad input."""

import itertools

import numpy as np
import pytest
import torch

import taskloom
from taskloom.errors import DataError, PlanError, UnknownName
from taskloom.learn.fits.scale_search import scale_search

from ..toy import BASE, INPUTS, LABELS, TAUS, toy


def problem(**more):
    on = toy(**more)
    object.__setattr__(
        on, "merge", lambda method, options: taskloom.merge(on.base, on.experts, method, **options)
    )
    return on


def js(scale):
    """The mean over tasks of card 3's divergence at equal coefficients."""
    found = []
    for (task, x), tau in zip(INPUTS.items(), TAUS.values(), strict=True):
        weight = BASE + scale * (TAUS["one"] + TAUS["two"])
        p, q = (torch.softmax(x @ w.T, 1).numpy() for w in (BASE + tau, weight))
        m = (p + q) / 2
        found.append(((p * np.log(p / m) + q * np.log(q / m)).sum(1) / 2).mean())
        assert task in ("first", "second")
    return float(np.mean(found))


def test_the_grid_of_task_arithmetic():
    found = scale_search(problem(labelled=False), objective="js_divergence")
    scales = [step.values["scale"] for step in found.trace]
    np.testing.assert_allclose(scales, np.arange(21) / 20)
    np.testing.assert_allclose([step.loss for step in found.trace], [js(s) for s in scales], atol=1e-9)
    golden = {0.0: 0.172854, 0.3: 0.084229, 0.5: 0.046925, 1.0: 0.016264}  # card 3, sums over tasks
    for scale, total in golden.items():
        step = found.trace[scales.index(scale)]
        assert step.loss == pytest.approx(total / 2, abs=1e-6)
    assert (found.method, found.options) == ("task_arithmetic", {"scale": 1.0})
    assert found.said["ended"] == "the budget was spent"
    assert found.said["labels"] == "not used"


def test_of_equal_losses_the_smallest_scale():
    found = scale_search(problem())
    errors = [step.loss for step in found.trace]
    assert found.options["scale"] == found.trace[int(np.argmin(errors))].values["scale"]
    for step in found.trace:
        weight = BASE + step.values["scale"] * (TAUS["one"] + TAUS["two"])
        wrong = [((x @ weight.T).argmax(1) != LABELS).double().mean() for x in INPUTS.values()]
        assert step.loss == pytest.approx(float(np.mean(wrong)))


def test_a_grid_over_two_options_of_another_method():
    found = scale_search(
        problem(labelled=False),
        method="ties",
        search={"density": (0.5, 1.0), "scale": (0.0, 2.0)},
        levels=3,
        objective="entropy",
    )
    points = [(step.values["density"], step.values["scale"]) for step in found.trace]
    assert points == list(itertools.product([0.5, 0.75, 1.0], [0.0, 1.0, 2.0]))
    best = min(found.trace, key=lambda step: step.loss)
    assert found.options == {"density": best.values["density"], "scale": best.values["scale"]}


def test_bayesian_search_comes_near_the_best_scale():
    found = scale_search(
        problem(labelled=False),
        how="bayesian",
        search={"scale": (0.0, 3.0)},
        objective="js_divergence",
        evaluations=40,
    )
    best = min(np.linspace(0, 3, 3001), key=js)
    assert found.trace[0].values["scale"] == 1.5
    assert found.options["scale"] == pytest.approx(best, abs=0.05)
    assert len(found.trace) == 40


def test_bayesian_search_over_the_weights_of_experts():
    found = scale_search(
        problem(labelled=False),
        how="bayesian",
        options={"scale": 1.0},
        search={"weights": (0.0, 2.0)},
        objective="js_divergence",
        evaluations=60,
    )
    assert set(found.options["weights"]) == {"one", "two"}
    assert found.options["scale"] == 1.0
    assert 2 * min(step.loss for step in found.trace) < 0.012  # 0.0056 at the minimum, 0.0163 at 1, 1


def test_the_default_budget_of_a_bayesian_search():
    assert len(scale_search(problem(), how="bayesian").trace) == 20


def test_a_preference_moves_the_choice():
    def chosen(task):
        return scale_search(
            problem(labelled=False),
            search={"scale": (-2.0, 3.0)},
            levels=51,
            objective="js_divergence",
            prefer={task: 1.0},
        ).options["scale"]

    alone = {task: min(np.linspace(-2, 3, 51), key=lambda s, t=task: loss_of(t, s)) for task in INPUTS}
    assert {task: chosen(task) for task in INPUTS} == pytest.approx(alone)


def loss_of(task, scale):
    tau = dict(zip(INPUTS, TAUS.values(), strict=True))[task]
    weight = BASE + scale * (TAUS["one"] + TAUS["two"])
    p, q = (torch.softmax(INPUTS[task] @ w.T, 1).numpy() for w in (BASE + tau, weight))
    m = (p + q) / 2
    return ((p * np.log(p / m) + q * np.log(q / m)).sum(1) / 2).mean()


def test_the_front_over_two_tasks():
    found = scale_search(
        problem(labelled=False), search={"scale": (0.0, 4.0)}, levels=41, objective="js_divergence"
    )
    pairs = np.array([[s.values["loss first"], s.values["loss second"]] for s in found.trace])
    for step, pair in zip(found.trace, pairs, strict=True):
        beaten = ((pairs <= pair).all(1) & (pairs < pair).any(1)).any()
        assert step.values["front"] == float(not beaten)


def test_resuming_from_a_journal(tmp_path):
    merges = []

    def counted(method, options):
        merges.append(options)
        return taskloom.merge(toy().base, toy().experts, method, **options)

    on = problem(labelled=False, journal=tmp_path / "j.jsonl")
    object.__setattr__(on, "merge", counted)
    first = scale_search(on, objective="entropy", levels=5)
    again = scale_search(on, objective="entropy", levels=9)
    assert len(merges) == 9  # five of the nine were known
    assert [s.loss for s in again.trace][::2] == [s.loss for s in first.trace]
    assert again.said["evaluations"] == "9, 4 of them measured now"
    scale_search(on, objective="entropy", levels=9, prefer={"first": 1.0})
    assert len(merges) == 9
    scale_search(on, method="average", search={"weights": (0.5, 1.0)}, how="bayesian", evaluations=2,
                 objective="entropy")  # fmt: skip
    assert len(merges) == 11


def test_collapse_is_reported():
    on = problem()
    assert "collapsed" not in scale_search(on, levels=2).said
    object.__setattr__(on, "merge", lambda *_: {"weight": torch.zeros(2, 2).double()})
    found = scale_search(on, levels=2)
    assert found.said["collapsed"] == "nearly all predictions are one class: first, second"


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"method": "tise"}, UnknownName, "did you mean 'ties'"),
        ({"search": {"scael": (0, 1)}}, PlanError, "did you mean 'scale'"),
        ({"search": {"scale": (1.0, 0.0)}}, PlanError, "searched from 1 to 0"),
        ({"search": {"scale": (0.5, 0.5)}}, PlanError, "which is no range"),
        ({"method": "ties", "search": {"density": (0.0, 2.0)}}, PlanError, "'density' is 2.0"),
        ({"options": {"scale": 0.3}}, PlanError, "both given and searched"),
        ({"method": "ties", "options": {"density": 7}}, PlanError, "'density' is 7"),
        ({"method": "ties", "search": {"scope": (0.0, 1.0)}}, PlanError, "scope"),
        ({"search": {"weights": (0.0, 1.0)}}, PlanError, "a grid over the weights"),
        ({"evaluations": 5}, PlanError, "21 points, and the budget is 5"),
        ({"evaluations": 0}, PlanError, "0 evaluations is too small"),
        ({"minutes": 0.0}, PlanError, "too small"),
        ({"prefer": {"third": 1.0}}, PlanError, "names 'third'"),
        ({"objective": "acuracy"}, UnknownName, "objective"),
    ],
)
def test_what_cannot_be(options, error, said):
    with pytest.raises(error, match=said):
        scale_search(problem(), **options)


def test_labels_are_needed_for_errors():
    with pytest.raises(DataError, match="labels"):
        scale_search(problem(labelled=False))


def test_the_test_split_is_never_searched_on():
    with pytest.raises(DataError, match="labels of the test split are never used"):
        scale_search(problem(split="test", transductive=True))
    found = scale_search(problem(split="test", transductive=True), objective="entropy", levels=2)
    assert found.said["transductive"] == "yes"
