"""Losses of merged weights: cards 1 to 4 and 9, preferences, and what identifies a problem."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from taskloom.errors import DataError, PlanError, UnknownName
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.learn.search.scorer import Scorer, check_preference, context_of, preferred
from taskloom.store.memory import MemoryCheckpoint

from ..toy import BASE, INPUTS, TAUS, toy


def at(one, two):
    return lambda: {"weight": BASE + one * TAUS["one"] + two * TAUS["two"]}


@pytest.mark.parametrize(
    ("point", "wanted"),
    [
        ((0.0, 0.0), 0.172854),
        ((0.5, 0.5), 0.046925),
        ((1.0, 1.0), 0.016264),
        ((1.3045, 0.7871), 0.005596),
    ],
)
def test_card_3_js_divergence(point, wanted):
    found = Scorer(toy(labelled=False), "js_divergence")(at(*point))
    assert sum(found.losses.values()) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("point", "wanted"), [((0.0, 0.0), 1.372131), ((0.3, 0.3), 1.324313)])
def test_card_1_entropy(point, wanted):
    found = Scorer(toy(labelled=False), "entropy")(at(*point))
    assert sum(found.losses.values()) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("point", "wanted"), [((0.0, 0.0), 1.431787), ((0.5, 0.5), 0.733769)])
def test_card_2_and_4_cross_entropy(point, wanted):
    found = Scorer(toy(), "cross_entropy")(at(*point))
    assert sum(found.losses.values()) == pytest.approx(wanted, abs=1e-6)


def fixed(batches, ce=1.2):
    """A problem of label 0 whose cross-entropy is the same for every example."""
    wide = math.log(math.exp(ce) - 1)
    module = nn.Linear(1, 2, bias=False)
    module.load_state_dict({"weight": torch.tensor([[0.0], [wide]])})
    weights = {"weight": torch.tensor([[0.0], [wide]])}
    given = [(torch.ones(n, 1), torch.zeros(n, dtype=torch.int64)) for n in batches]
    return Problem(
        base=MemoryCheckpoint(weights),
        experts={"one": MemoryCheckpoint(weights)},
        probes={"t": Probe.of_module(module)},
        batches={"t": Examples.of(given)},
    )


@pytest.mark.parametrize(
    ("batches", "wanted"), [([5], 1.2 / 5), ([2, 2, 1], 3 * 1.2 / 5), ([1] * 5, 1.2)]
)
def test_card_9_sum_of_means(batches, wanted):
    found = Scorer(fixed(batches), "cross_entropy", "sum of means")(dict)
    assert found.losses["t"] == pytest.approx(wanted, abs=1e-6)
    assert Scorer(fixed(batches), "cross_entropy")(dict).losses["t"] == pytest.approx(1.2, abs=1e-6)


def test_error_is_the_share_of_wrong_predictions():
    for point in ((0.0, 0.0), (1.0, 0.0), (-2.0, 1.0)):
        found = Scorer(toy())(at(*point))
        for task, x in INPUTS.items():
            guesses = (x @ at(*point)()["weight"].T).argmax(1)
            assert found.losses[task] == float((guesses != torch.tensor([0, 1])).double().mean())
            assert found.shares[task] == max(np.bincount(guesses.numpy())) / 2


def test_pairs_are_given_to_an_objective_that_contrasts():
    """The rule restated: the share of its one partner among the other rows, by cosines at 0.05."""
    x = torch.tensor([[1.0, 0.2], [0.9, -0.1], [-0.3, 1.0], [0.1, 0.8]], dtype=torch.float64)
    pairs = torch.tensor([7, 7, 9, 9])  # names of pairs, which no head has classes for
    on = toy(tasks=("first",))
    on = Problem(on.base, on.experts, on.probes, {"first": Examples.of([(x, pairs)])})
    scorer = Scorer(on, "contrastive")
    assert scorer.labels_used
    found = scorer(at(0.5, -0.25))
    rows = (x @ at(0.5, -0.25)()["weight"].T).numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    heights = np.exp(rows @ rows.T / 0.05)
    np.fill_diagonal(heights, 0.0)
    partner = [1, 0, 3, 2]
    wanted = -np.mean([math.log(heights[i, partner[i]] / heights[i].sum()) for i in range(4)])
    assert found.losses["first"] == pytest.approx(wanted, rel=1e-9)
    assert found.shares == {}  # embeddings are no classes
    sealed = Problem(on.base, on.experts, on.probes, on.batches, split="test", transductive=True)
    with pytest.raises(DataError, match="labels of the test split are never used"):
        Scorer(sealed, "contrastive")(at(0, 0))


def test_an_objective_that_needs_what_is_not_there(monkeypatch):
    from types import SimpleNamespace

    from taskloom.learn.search import scorer

    entry = SimpleNamespace(needs=("gradients", "labels"), function=None)
    monkeypatch.setattr(scorer, "get", lambda kind, name: entry)
    with pytest.raises(PlanError, match=r"the objective 'odd' needs gradients, which a fit does not"):
        Scorer(toy(), "odd")


def test_what_is_left_out_is_the_bases():
    assert Scorer(toy())(dict).losses == Scorer(toy())(at(0, 0)).losses


def test_no_gradients_are_kept():
    seen = []
    base = toy()

    def weights():
        seen.append(torch.is_grad_enabled())
        return {}

    Scorer(base)(weights)
    assert seen == [False]


def test_dtypes_are_the_models():
    half = {name: tensor.to(torch.bfloat16) for name, tensor in at(1, 1)().items()}
    assert Scorer(toy())(lambda: half).losses.keys() == {"first", "second"}


@pytest.mark.parametrize("objective", ["error", "cross_entropy"])
def test_labels_are_needed(objective):
    with pytest.raises(DataError, match="labels"):
        Scorer(toy(labelled=False), objective)(at(0, 0))


@pytest.mark.parametrize("objective", ["error", "cross_entropy"])
def test_labels_of_the_test_split_are_never_used(objective):
    sealed = toy(split="test", transductive=True)
    with pytest.raises(DataError, match="labels of the test split are never used"):
        Scorer(sealed, objective)(at(0, 0))
    assert Scorer(sealed, "entropy")(at(0, 0)).losses


def test_an_objective_that_is_not_there():
    with pytest.raises(UnknownName, match="did you mean 'entropy'"):
        Scorer(toy(), "entrop")


def test_a_task_without_an_expert_of_its_own():
    on = toy(labelled=False)
    alone = Problem(on.base, on.experts, on.probes, on.batches, own={"first": "one"})
    with pytest.raises(PlanError, match=r"task 'second'.*has none"):
        Scorer(alone, "js_divergence")


# --- preferences ------------------------------------------------------------------------------


def test_preferences_add_up_to_one():
    assert check_preference({}, ["a", "b"]) == {"a": 0.5, "b": 0.5}
    assert check_preference({"a": 3, "b": 1}, ["a", "b"]) == {"a": 0.75, "b": 0.25}
    assert check_preference({"b": 2}, ["a", "b"]) == {"a": 0.0, "b": 1.0}
    assert preferred({"a": 0.75, "b": 0.25}, {"a": 1.0, "b": 2.0}) == 1.25


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"c": 1}, "names 'c'"),
        ({"frist": 1}, "did you mean 'first'"),
        ({"first": -1}, "-1, where a weight >= 0"),
        ({"first": math.nan}, "nan, where"),
        ({"first": math.inf}, "inf, where"),
        ({"first": 0}, "no task any weight"),
    ],
)
def test_preferences_that_cannot_be(given, said):
    with pytest.raises(PlanError, match=said):
        check_preference(given, ["first", "second"])


# --- what identifies a problem ----------------------------------------------------------------


def test_equal_problems_have_equal_contexts():
    assert context_of(toy(), method="ties") == context_of(toy(), method="ties")


def test_anything_that_decides_a_loss_makes_another_context():
    on = toy()
    moved = {"weight": BASE + 1.0}
    other = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    other.load_state_dict(moved)
    inputs = {t: Examples.of([(x + 1, torch.tensor([0, 1]))]) for t, x in INPUTS.items()}
    labels = {t: Examples.of([(x, torch.tensor([1, 1]))]) for t, x in INPUTS.items()}
    scaled = dict.fromkeys(
        on.tasks,
        Probe(
            on.probes["first"].module,
            on.probes["first"].weights,
            on.probes["first"].trained,
            on.probes["first"].places,
            lambda given, x: 2 * on.probes["first"].run(given, x),
            on.probes["first"].digest,
            "another head",
        ),
    )
    elsewhere = dict.fromkeys(on.tasks, Probe.of_module(other))
    every = [
        context_of(on, method="ties"),
        context_of(on, method="average"),
        context_of(on, method="ties", objective="error"),
        context_of(toy(labelled=False), method="ties"),
        context_of(toy(tasks=("first",)), method="ties"),
        context_of(Problem(MemoryCheckpoint(moved), on.experts, on.probes, on.batches), method="ties"),
        context_of(Problem(on.base, {"one": on.experts["one"]}, on.probes, on.batches), method="ties"),
        context_of(Problem(on.base, on.experts, on.probes, inputs), method="ties"),
        context_of(Problem(on.base, on.experts, on.probes, labels), method="ties"),
        context_of(Problem(on.base, on.experts, scaled, on.batches), method="ties"),
        context_of(Problem(on.base, on.experts, elsewhere, on.batches), method="ties"),
    ]
    assert len({str(each) for each in every}) == len(every)
