"""Divergences against numpy and the numbers of the card."""

import math

import numpy as np
import pytest
import torch

from taskloom.learn.objectives.js_divergence import js_divergence

from .plain import EXPERT, check, softmax


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def js(p, q):
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


@pytest.mark.parametrize(
    ("divergence", "rule"),
    [("js", js), ("kl", kl), ("rkl", lambda p, q: kl(q, p))],
)
def test_value_and_gradient_are_those_of_the_rule(divergence, rule):
    expert = softmax(EXPERT)
    check(
        js_divergence,
        lambda z: float(rule(expert, softmax(z)).mean()),
        EXPERT,
        divergence=divergence,
    )


def test_the_numbers_of_the_card():
    sure, even = torch.log(torch.tensor([[0.9, 0.1]])), torch.zeros(1, 2)
    assert round(float(js_divergence(sure, even)), 6) == 0.101749
    apart = js_divergence(torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]]))
    assert math.isclose(float(apart), 0.693147, rel_tol=1e-6)


def test_equal_distributions_are_at_zero_with_no_gradient():
    logits = torch.tensor(EXPERT, requires_grad=True)
    value = js_divergence(logits, torch.tensor(EXPERT) + 3.0)  # a constant changes no distribution
    value.backward()
    assert abs(float(value.detach())) < 1e-12
    assert float(logits.grad.abs().max()) < 1e-12
