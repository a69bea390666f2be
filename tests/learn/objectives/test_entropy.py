"""Entropy against numpy and the numbers of the card."""

import math

import numpy as np
import torch

from taskloom.learn.objectives.entropy import entropy

from .plain import check, softmax


def test_value_and_gradient_are_those_of_the_rule():
    check(entropy, lambda z: float(-(softmax(z) * np.log(softmax(z))).sum(-1).mean()))


def test_the_most_unsure_prediction_has_log_of_the_number_of_classes():
    assert math.isclose(float(entropy(torch.zeros(2, 7))), math.log(7), rel_tol=1e-6)


def test_certainty_has_none_and_no_nan():
    logits = torch.tensor([[1000.0, -1000.0], [0.0, 500.0]], requires_grad=True)
    value = entropy(logits)
    value.backward()
    assert float(value.detach()) == 0
    assert bool(torch.isfinite(logits.grad).all())
