"""Parameters: gradients, filters, precedence, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import PlanError
from taskloom.runs.mergekit.methods import find_method, parameters_of_others
from taskloom.runs.mergekit.settings import Parameter, check_settings, evaluate, resolve

WEIGHT = Parameter("weight", reach="expert", required=True)
SWITCH = Parameter("normalize", "switch", default=True)


def value(setting, *, t=0.0, tensor="model.layers.0.mlp.up_proj.weight", parameter=WEIGHT):
    return evaluate(setting, parameter, tensor, t, "here")


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=6), st.integers(0, 12))
def test_a_gradient_is_piecewise_linear_over_the_layers(points, layer):
    t = layer / 12
    place = t * (len(points) - 1)
    left = min(int(place), len(points) - 2)
    wanted = points[left] + (place - left) * (points[left + 1] - points[left])
    assert value(points, t=t) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(("t", "wanted"), [(0.0, True), (0.4, True), (0.5, False), (1.0, True)])
def test_switches_step(t, wanted):
    assert value([True, False, True], t=t, parameter=SWITCH) is wanted


def test_the_first_filter_that_matches_wins():
    setting = [{"filter": "mlp", "value": 1}, {"filter": "up_proj", "value": 2}, {"value": 3}]
    assert value(setting) == 1
    assert value(setting, tensor="a.up_proj.b") == 2
    assert value(setting, tensor="norm") == 3
    assert value([{"filter": "*", "value": [0, 2]}], t=0.5) == 1
    assert value({"filter": "attn", "value": 1}) is None


def test_numbers_may_be_text():
    assert value("1e-3") == 0.001
    assert value(["0", "1e0"], t=0.5) == 0.5


def test_precedence_is_nearest_first_and_unmatched_filters_fall_through():
    near, far = {"weight": [{"filter": "mlp", "value": 1}]}, {"weight": 7}
    both = {"t": 0, "where": "here"}
    assert resolve(WEIGHT, [None, near, far], tensor="x.mlp.y", **both) == 1
    assert resolve(WEIGHT, [near, None, far], tensor="norm", **both) == 7
    assert resolve(SWITCH, [near], tensor="norm", **both) is True
    with pytest.raises(PlanError, match="weight is not given for tensor 'norm'"):
        resolve(WEIGHT, [near, {}], tensor="norm", **both)


def check(method, settings, *, of_one_model=False):
    found = find_method(method)
    check_settings(
        settings,
        found.parameters,
        parameters_of_others(found),
        where="f.yaml",
        method=method,
        of_one_model=of_one_model,
    )


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("ties", {"densty": 0.5}, "unknown parameter 'densty': did you mean 'density'"),
        ("linear", {"density": 0.5}, "density is a parameter of task_arithmetic, ties"),
        ("ties", {"density": 1.5}, "density is 1.5, but a number from 0 to 1"),
        ("ties", {"density": [0.5, -1]}, "density is -1"),
        ("ties", {"weight": "much"}, "weight is 'much', but a number"),
        ("ties", {"weight": float("nan")}, "but a finite number is needed"),
        ("ties", {"normalize": "yes please"}, "but true or false is needed"),
        ("karcher", {"max_iter": 2.5}, "but a whole number is needed"),
        ("ties", {"weight": []}, "the list is empty"),
        ("ties", {"weight": [1, {"value": 2}]}, "either numbers or filters"),
        ("ties", {"weight": [[1]]}, "a list within a list"),
        ("ties", {"weight": {"filtre": "mlp", "value": 2}}, "unknown key 'filtre'"),
        ("ties", {"weight": {"filter": "mlp"}}, "a filter needs a value"),
        ("ties", {"weight": {"filter": 3, "value": 1}}, "filter is 3"),
        ("ties", {"weight": {"value": [{"value": 1}]}}, "a filter's value is a scalar"),
        ("nearswap", {"t": -1}, "t is -1, but a number of at least 0"),
    ],
)
def test_what_is_refused(method, settings, said):
    with pytest.raises(PlanError, match=r"f\.yaml") as caught:
        check(method, settings)
    assert said in str(caught.value)


def test_a_parameter_of_the_merge_under_a_model_is_refused():
    check("ties", {"normalize": True})
    with pytest.raises(PlanError, match="normalize is one value for the whole merge"):
        check("ties", {"normalize": True}, of_one_model=True)


def test_unknown_methods():
    with pytest.raises(PlanError, match="did you mean 'dare_ties'"):
        find_method("dare_tise")
