"""DARE with TIES: card 7."""

import pytest
import torch

from taskloom import merge

from ..fixture import BASE, close, merged
from .test_dare_linear import pattern  # noqa: F401


@pytest.mark.usefixtures("pattern")
def test_card_7_dare_ties():
    delta = [0.5, 0.875, 0.125, 0.0, -0.25, -0.125]
    expected = [b + d for b, d in zip(BASE, delta, strict=True)]
    assert merged("dare_ties", p=0.5) == close(expected)


@pytest.mark.usefixtures("pattern")
def test_trimming_what_survived():
    """Of [0, -.75, .125, 0, -.25, 0] and [.5, .875, 0, 0, 0, -.125] int(6 * 0.34) = 2 stay."""
    delta = [0.5, 0.875, 0.0, 0.0, -0.25, 0.0]
    expected = [b + d for b, d in zip(BASE, delta, strict=True)]
    assert merged("dare_ties", p=0.5, density=0.34) == close(expected)


def test_dropping_nothing_is_untrimmed_ties():
    assert (merged("dare_ties", p=0.0) == merged("ties", density=1.0)).all()


def test_over_a_model():
    base = {"a": torch.zeros(50), "b": torch.zeros(50)}
    experts = [{"a": torch.full((50,), 0.1), "b": torch.full((50,), 10.0)}]
    found = merge(base, experts, "dare_ties", p=0.1, density=0.3, scope="model")
    assert not found["a"].any()
    assert found["b"].any()


def test_dropping_everything_is_the_base():
    assert merged("dare_ties", p=1.0).tolist() == BASE
