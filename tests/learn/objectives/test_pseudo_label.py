"""Pseudo-labels against numpy and the numbers of the card on tinting."""

import numpy as np
import torch

from taskloom.learn.objectives.pseudo_label import pseudo_label

from .plain import LOGITS, check, softmax


def rule(z, threshold):
    kept = softmax(LOGITS).max(-1) >= threshold
    guesses = softmax(LOGITS).argmax(-1)  # fixed: no gradient goes through the labels
    losses = -np.log(softmax(z)[np.arange(4), guesses])
    return float(losses[kept].sum() / max(1, kept.sum()))


def test_value_and_gradient_are_those_of_the_rule():
    assert (softmax(LOGITS).max(-1) >= 0.7).tolist() == [True, False, True, False]
    check(pseudo_label, lambda z: rule(z, 0.7), threshold=0.7)
    check(pseudo_label, lambda z: rule(z, 0.0), threshold=0.0)


def test_without_a_confident_example_there_is_nothing_to_learn():
    logits = torch.zeros(3, 4, requires_grad=True)
    value = pseudo_label(logits, threshold=0.9)
    value.backward()
    assert float(value.detach()) == 0
    assert float(logits.grad.abs().sum()) == 0
