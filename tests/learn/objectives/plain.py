"""The rules of the objectives restated in numpy, and their gradients by central differences."""

import numpy as np
import torch

LOGITS = np.array([[2.0, 0.5, -1.0], [0.0, 0.1, 0.2], [-3.0, 4.0, 0.0], [1.0, 1.0, 1.0]])
EXPERT = np.array([[1.0, -0.5, 0.0], [0.3, 0.2, 2.0], [0.0, 1.0, 0.5], [2.0, 0.0, 0.0]])
LABELS = np.array([0, 2, 1, 2])


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def differences(function, logits, step=1e-6):
    """Return the gradient of a function of logits, by central differences."""
    found = np.zeros_like(logits)
    for place in np.ndindex(logits.shape):
        moved = np.zeros_like(logits)
        moved[place] = step
        found[place] = (function(logits + moved) - function(logits - moved)) / (2 * step)
    return found


def check(objective, rule, *more, **options):
    """Hold value and gradient of an objective against a rule in numpy."""
    leaf = torch.tensor(LOGITS, requires_grad=True)
    value = objective(leaf, *(torch.from_numpy(each) for each in more), **options)
    value.backward()
    assert value.ndim == 0
    np.testing.assert_allclose(float(value.detach()), rule(LOGITS), rtol=1e-12)
    np.testing.assert_allclose(leaf.grad.numpy(), differences(rule, LOGITS), atol=1e-7)
