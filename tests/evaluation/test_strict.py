import pytest
from pydantic import BaseModel, Field

from taskloom.errors import PlanError
from taskloom.evaluation.strict import Strict, parse


class Inner(Strict):
    abscissa: int = 0


class Outer(Strict):
    inner: Inner
    listed: list[Inner] = Field(default_factory=list)


def test_values_come_through():
    outer = parse(Outer, {"inner": {"abscissa": 3}}, where="x")
    assert outer.inner.abscissa == 3
    assert isinstance(outer, BaseModel)


def test_unknown_key_offers_the_nearest_and_says_where():
    with pytest.raises(PlanError, match=r"plan.yaml: inner: unknown key 'absissa'.*'abscissa'"):
        parse(Outer, {"inner": {"absissa": 3}}, where="plan.yaml")


def test_unknown_key_in_a_list_names_its_place():
    with pytest.raises(PlanError, match=r"listed\.1: unknown key 'q'"):
        parse(Outer, {"inner": {}, "listed": [{}, {"q": 1}]}, where="x")


def test_nothing_near_offers_nothing():
    with pytest.raises(PlanError) as caught:
        parse(Outer, {"inner": {}, "zzzz": 1}, where="x")
    assert "did you mean" not in str(caught.value)


def test_wrong_value_shows_what_was_found():
    with pytest.raises(PlanError, match=r"inner.abscissa: .*integer.*, found 'three'"):
        parse(Outer, {"inner": {"abscissa": "three"}}, where="x")


def test_missing_key_is_named():
    with pytest.raises(PlanError, match=r"x: inner: Field required$"):
        parse(Outer, {}, where="x")


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_not_a_mapping(value):
    with pytest.raises(PlanError, match="expected keys and values"):
        parse(Outer, value, where="x")


def test_values_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Inner().abscissa = 1
