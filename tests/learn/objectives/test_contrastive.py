"""The contrastive objective against numpy, and against InfoNCE for pairs."""

import numpy as np
import pytest
import torch

from taskloom.errors import DataError
from taskloom.learn.objectives.contrastive import contrastive

from .plain import check


def rule(rows, labels, temperature):
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    scores = np.exp(unit @ unit.T / temperature)
    found = []
    for i in range(len(rows)):
        others = [a for a in range(len(rows)) if a != i]
        partners = [p for p in others if labels[p] == labels[i]]
        share = [-np.log(scores[i, p] / scores[i, others].sum()) for p in partners]
        if share:
            found.append(np.mean(share))
    return float(np.mean(found))


def test_value_and_gradient_are_those_of_the_rule():
    for labels in ([0, 0, 1, 1], [0, 0, 0, 1], [2, 2, 2, 2]):
        check(
            contrastive,
            lambda z, labels=labels: rule(z, labels, 0.5),
            np.array(labels),
            temperature=0.5,
        )


def test_pairs_are_info_nce_in_both_directions():
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = torch.nn.functional.normalize(rows, dim=-1)
    scores = (unit @ unit.T / 0.1).fill_diagonal_(-torch.inf)
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([1, 0, 3, 2, 5, 4]))
    found = contrastive(rows, torch.tensor([0, 0, 1, 1, 2, 2]), temperature=0.1)
    assert torch.allclose(found, expected)


def test_a_batch_without_a_pair_is_refused():
    with pytest.raises(DataError, match="no two examples with one label"):
        contrastive(torch.eye(3), torch.arange(3))
