"""Deterministic methods against mergekit's in-memory API, where it is installed (marker ``peer``).

Compared with mergekit 0.1.5: ``pip install mergekit==0.1.5`` and ``pytest -m peer``.
"""

import pytest
import torch

from taskloom import merge

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

SHAPES = {"embedding": (40, 16), "dense": (16, 24), "cube": (3, 8, 8), "bias": (128,)}


def pool(count, *, near=True):
    """A base and ``count`` experts: small changes of it, or weights of their own."""
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    experts = [
        {
            n: near * t + (0.1 if near else 1.0) * torch.randn(t.shape, generator=generator)
            for n, t in base.items()
        }
        for _ in range(count)
    ]
    return base, experts


def theirs(base, experts, method, parameters):
    methods = pytest.importorskip("mergekit.merge_methods", reason="mergekit is not installed")
    models = {f"e{k}": expert for k, expert in enumerate(experts)}
    if base is None:
        return methods.merge_state_dicts(models, method, parameters=parameters)
    return methods.merge_state_dicts(
        {"base": base, **models}, method, parameters=parameters, base="base"
    )


def each(values):
    return {f"e{k}": value for k, value in enumerate(values)}


@pytest.mark.parametrize(
    ("ours", "options", "method", "parameters"),
    [
        ("average", {"weights": [3, 1, 2]}, "linear", {"weight": each([3.0, 1.0, 2.0])}),
        (
            "task_arithmetic",
            {"weights": [1, 0.5, 2], "scale": 0.4},
            "task_arithmetic",
            {"weight": each([1.0, 0.5, 2.0]), "lambda": 0.4},
        ),
        *(
            (
                "ties",
                {
                    "variant": "mergekit",
                    "scope": "tensor",
                    "density": density,
                    "weights": [1, 0.5, 2],
                    "scale": 0.7,
                },
                "ties",
                {
                    "weight": each([1.0, 0.5, 2.0]),
                    "density": each([density] * 3),
                    "lambda": 0.7,
                    "normalize": True,
                },
            )
            for density in (0.2, 0.53, 1.0)
        ),
        (
            "breadcrumbs",
            {"scope": "tensor", "remove": 0.05, "density": 0.4, "weights": [1, 0.5, 2], "scale": 0.7},
            "breadcrumbs",
            {
                "weight": each([1.0, 0.5, 2.0]),
                "density": each([0.4] * 3),
                "gamma": each([0.05] * 3),
                "lambda": 0.7,
            },
        ),
    ],
)
def test_three_experts(ours, options, method, parameters):
    base, experts = pool(3)
    expected = theirs(None if ours == "average" else base, experts, method, parameters)
    compare(merge(base, experts, ours, **options), expected, ours)


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp(near, t):
    """mergekit calls the first of the two the base."""
    _, (first, second) = pool(2, near=near)
    expected = theirs(first, [second], "slerp", {"t": t})
    compare(merge(None, [first, second], "slerp", t=t), expected, f"slerp t={t}")


def compare(found, expected, what):
    gaps = {name: float((found[name] - t).abs().max()) for name, t in expected.items()}
    print(what, f"largest difference {max(gaps.values()):.2g}")
    assert set(found) == set(expected)
    assert max(gaps.values()) < 2e-6, gaps
