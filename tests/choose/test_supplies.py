"""What scores look at beside features, and rankings that are given it."""

import numpy as np
import pytest

from taskloom.choose.rank import rank, resolve
from taskloom.choose.scores import leep, nce, rsa
from taskloom.choose.supplies import KNOWN, arguments, fill, wanted
from taskloom.errors import DataError
from taskloom.registry import entries, get

LABELS = np.array([0, 0, 1, 1, 0, 1])
FEATURES = np.random.default_rng(0).normal(size=(6, 3))
SURE = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
UNSURE = np.full((6, 2), 0.5)


def test_signatures_say_what_is_wanted():
    assert arguments(get("score", "leep")) == ("source_probabilities",)
    assert arguments(get("score", "nce")) == ("source_labels",)
    assert arguments(get("score", "rsa")) == ("reference_features",)
    assert arguments(get("score", "logme_regression")) == ()
    assert wanted([get("score", "leep"), get("score", "knn")]) == {"source_probabilities"}
    assert wanted([]) == frozenset()


def test_everything_wanted_is_known_and_no_option():
    for entry in entries("score"):
        names = arguments(entry)
        assert set(names) <= set(KNOWN)
        assert not set(names) & set(entry.schema.model_fields)


def test_ranked_by_what_the_source_says():
    beside = {
        "sure": {"source_probabilities": SURE},
        "unsure": {"source_probabilities": UNSURE, "base_features": FEATURES},
    }
    experts = {"unsure": FEATURES, "sure": FEATURES}
    by_leep, by_nce = rank(experts, LABELS, ["leep", "nce"], supplies=beside)
    assert by_leep.best == by_nce.best == "sure"
    assert by_leep.values(["sure"]) == [leep(FEATURES, LABELS, SURE)]
    assert by_nce.values(["sure"]) == [nce(FEATURES, LABELS, SURE.argmax(1))] == [0.0]
    assert by_nce.values(["unsure"]) == [pytest.approx(-np.log(2))]


def test_source_labels_that_are_given_go_before_probabilities():
    given = {"source_labels": [1, 1, 0, 0, 0, 0], "source_probabilities": SURE}
    assert fill(get("score", "nce"), given) == [[1, 1, 0, 0, 0, 0]]


def test_options_and_supplies_together():
    beside = {"a": {"reference_features": FEATURES @ np.diag([1, 2, 3]) + 1}}
    (found,) = rank({"a": FEATURES}, LABELS, [("rsa", {"most": 4})], supplies=beside)
    wanted_value = rsa(FEATURES, LABELS, beside["a"]["reference_features"], most=4)
    assert found.values(["a"]) == [wanted_value]


def test_what_is_missing_is_said():
    with pytest.raises(DataError, match=r"^expert 'a': leep needs the probabilities.*heads/"):
        rank({"a": FEATURES}, LABELS, ["leep"])
    some = {"a": {"source_labels": LABELS}}
    with pytest.raises(DataError, match=r"^expert 'b': nce needs the classes"):
        rank({"a": FEATURES, "b": FEATURES}, LABELS, ["nce"], supplies=some)
    with pytest.raises(DataError, match="rsa needs the features of the reference model"):
        rank({"a": FEATURES}, LABELS, ["rsa"], supplies={"a": {}})


def test_a_score_of_somebody_else_may_want_what_we_do_not_know():
    from taskloom.registry import Entry

    def odd(features, labels, moon):
        return moon

    entry = Entry("score", "odd", odd)
    assert fill(entry, {"moon": 3.0}) == [3.0]
    with pytest.raises(DataError, match="odd needs the argument 'moon'"):
        fill(entry, {})


def test_scores_are_resolved_with_options():
    entry, options = resolve(("knn", {"k": 3}))
    assert (entry.name, options) == ("knn", {"k": 3})
