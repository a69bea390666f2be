"""Every registered merging method against every rule; and the battery against faulty methods."""

import time
from dataclasses import replace

import pytest
import torch

from taskloom import registry
from taskloom.algebra import Step, chain, drop, keep, mean, scale, weigh
from taskloom.merging.battery import CHECKS, check_method, check_rule

#: options under which a mean-like method returns equal experts (card 0, test 3)
UNTRIMMED = {
    "ties": {"density": 1.0},
    "dare_ties": {"p": 0.0},
    "task_arithmetic": {"scale": 1 / 3},
    "della": {"density": 1.0, "scale": 1.0},
    "della_linear": {"density": 1.0, "scale": 1 / 3},
    "breadcrumbs_ties": {"density": 1.0, "remove": 0.0},
    "sce": {"select_topk": 1.0},
    "knots": {"density": 1.0, "scale": 1.0},
    "nearswap": {"t": 10.0},
    "sens_merging": {"scale": 1 / 3},
    "magnitude_pruning": {"density": 1.0, "scale": 1 / 3},
    "lwptv": {"share": 0.0, "scale": 1 / 3},
    "consensus": {"scale": 1 / 3},
    "consensus_ties": {"density": 1.0, "scale": 1 / 3},
    "twin_merging": {"scale": 1 / 3},
    "coefficients": {"values": 1 / 3},
}
#: options under which the battery's numbers give no vote that is tied but for rounding
UNTIED = {
    ("knots", "seeds"): {"p": 0.5},  # it draws nothing by default
    ("della", "dtypes"): {"epsilon": 0.06},
}
#: rules a method breaks by what it is, and why
EXCEPTIONS = {
    ("task_negation", "equal_experts"): "it subtracts",
    ("breadcrumbs", "equal_experts"): "it sums, and masks",
    ("dare_linear", "equal_experts"): "it sums, and drops at random",
    ("graft", "equal_experts"): "it takes over what its masks hold",
    ("checkpoint_average", "permutation"): "its experts are snapshots, oldest first",
    ("task_analogy", "permutation"): "its experts are A, B and C",
    ("karcher", "permutation"): "where directions cancel it starts from the first expert's",
    ("tsv_merge", "equal_experts"): "it refuses them",
    ("iso_c", "equal_experts"): "it sums, and flattens the spectrum",
    ("iso_cts", "equal_experts"): "it sums, and flattens the spectrum",
    ("arcee_fusion", "permutation"): "it changes the first towards the second",
    ("tall_masks", "equal_experts"): "without a task it sums",
    ("pcb", "equal_experts"): "the entry at its threshold gets nothing",
    ("cabs", "equal_experts"): "experts choose in turn",
    ("cabs_unstructured", "equal_experts"): "experts choose in turn",
    ("cabs_unstructured", "permutation"): "experts choose in turn",
}
METHODS = [entry.name for entry in registry.entries("merge") if "adapters" not in entry.needs]


@pytest.mark.parametrize("rule", CHECKS)
@pytest.mark.parametrize("method", METHODS)
def test_rule(method, rule, record_property):
    record_property("battery", (method, rule, (method, rule) in EXCEPTIONS))
    options = UNTIED.get((method, rule), {})
    if rule == "equal_experts":
        options = UNTRIMMED.get(method, {})
    if (method, rule) in EXCEPTIONS:
        with pytest.raises(AssertionError):  # an exception that is none any more must go
            check_rule(rule, method, **options)
    else:
        check_rule(rule, method, **options)


@pytest.mark.parametrize(
    "rule", [rule for rule in CHECKS if rule not in ("equal_experts", "permutation")]
)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ties", {"variant": "released", "density": 0.5}),
        ("ties", {"variant": "mergekit", "scope": "tensor", "density": 0.5}),
        ("ties", {"scope": "row", "density": 0.5, "scale": 0.3}),
        ("dare_ties", {"density": 0.3, "scope": "model", "p": 0.4}),
        ("breadcrumbs", {"scope": "tensor", "remove": 0.3, "density": 0.4}),
        ("slerp", {"t": 0.3, "threshold": 1.0}),
        ("model_stock", {"scope": "row", "clamp": True}),
        ("nuslerp", {"scope": "row", "weights": [1, 3]}),
        ("nuslerp", {"scope": "column", "weights": [1, 3], "variant": "mergekit"}),
        ("nuslerp", {"space": "weight"}),
        ("multislerp", {"normalize": False}),
        ("karcher", {"iterations": 2}),
        ("sce", {"select_topk": 0.5, "variant": "released"}),
        ("sce", {"select_topk": 0.5, "variant": "mergekit"}),
        ("checkpoint_average", {"over": "ema", "decay": 0.5}),
        ("greedy_soup", {"ingredients": ()}),
        ("fisher", {"variant": "released", "normalize": True}),
        ("fisher", {"variant": "mergelm", "normalize": True, "floor": 0.5}),
        ("regmean", {"off_diagonal": 1.0, "ridge": 1e-3}),
        ("graft", {"overlap": "sum", "scale": 0.5}),
        ("sens_merging", {"temperature": 0.1, "scale": 0.3}),
        ("della", {"density": 0.4, "epsilon": 0.2, "rescale": False}),
        ("magnitude_pruning", {"scope": "model", "density": 0.5}),
        ("metagpt", {"scope": "tensor"}),
        ("cabs", {"n": 2, "m": 4, "trailing": "keep"}),
        ("cabs", {"n": 1, "m": 3}),
        ("codiemb", {"scope": "element", "power": 1.5}),
        ("lwptv", {"host": "ties", "prune": "high", "layers": "tensor", "density": 0.6}),
        ("pcb", {"ratio": 0.5, "variant": "vision", "clamp": 0.1}),
        ("tall_masks", {"over": "ties", "density": 0.5, "variant": "released"}),
        ("consensus_ties", {"density": 0.5, "variant": "released", "threshold": 0.2}),
    ],
    ids=str,
)
def test_rule_with_options(method, options, rule):
    check_rule(rule, method, **options)


def test_every_method_has_a_test_file_of_its_own(request):
    folder = request.config.rootpath / "tests/merging/methods"
    names = [entry.name for entry in registry.entries("merge")]
    assert [name for name in names if not (folder / f"test_{name}.py").is_file()] == []


def test_check_method_takes_names_and_functions():
    check_method("average")
    check_method("task_arithmetic", skip={"equal_experts"}, scale=0.4)

    def dropped(*, p: float = 0.5, seed: int = 0):
        return chain(drop(p, seed=seed), mean())

    check_method(dropped, skip={"equal_experts"}, p=0.3)


def test_check_method_is_quick():
    begun = time.perf_counter()
    check_method("average")
    assert time.perf_counter() - begun < 5


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match=r"no rules \['equal'\]; there are zero_task_vectors"):
        check_method("average", skip={"equal"})


def a_step(apply, **more):
    return Step("faulty", lambda stack, _: stack.with_values(apply(stack)), **more)


def shifts():
    """Task vectors of zero do not give the base."""
    return chain(mean(), a_step(lambda stack: stack.values + 1))


def ordered():
    return chain(weigh([3.0, 2.0, 1.0]), mean(), experts=(3, 3))


def doubled():
    return chain(mean(), scale(2))


def sliced():
    """Depends on where a slice begins."""
    return chain(mean(), a_step(lambda stack: stack.values * (stack.start + 1)))


def slices_added():
    return chain(a_step(lambda stack: stack.values.sum(0, keepdim=True) / len(stack.values)))


def coin(*, seed: int = 0):
    return chain(mean(), a_step(lambda stack: stack.values * torch.rand(())))


def deaf(*, seed: int = 0):
    return chain(mean())


def undeclared():
    step = keep(0.5)
    return chain(replace(step, measure=replace(step.measure, rounds=1)), mean())


def squared():
    return chain(mean(), a_step(lambda stack: stack.values * stack.values / (1 + stack.values.abs())))


def unfinished():
    return chain(scale(1.0))


@pytest.mark.parametrize(
    ("function", "rule", "message"),
    [
        (shifts, "zero_task_vectors", "experts equal to the base: 30 of 30 entries of tensor 'matrix'"),
        (ordered, "permutation", "experts reversed"),
        (doubled, "equal_experts", "3 equal experts"),
        (sliced, "any_slices", "slices of 1 elements"),
        (slices_added, "any_slices", "slices of 1 elements"),
        (coin, "seeds", "one seed, twice"),
        (deaf, "seeds", "another seed gives the same model"),
        (undeclared, "one_expert", "after round 1"),
        (squared, "extreme_scales", "too large for torch.float32"),
        (unfinished, "permutation", "ends with 3 rows"),
    ],
)
def test_faults_are_found(function, rule, message):
    with pytest.raises(AssertionError, match=f"{function.__name__} breaks the rule '{rule}'") as caught:
        check_rule(rule, function)
    assert message in str(caught.value)
