"""Sens-Merging: card 19."""

import json

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import CheckpointError, PlanError
from taskloom.store.statistic import Statistic

from ..fixture import BASE, TAU1, TAU2, THETA1, THETA2, close

RAW = [[0.3, 0.4], [0.6, 0.2]]
GAPS = [[0.0, 2.0], [1.0, 0.0]]  # of model i to expert j on the task of j


def halves(values):
    """The fixture as two layers of three."""
    return {"0.w": torch.tensor(values[:3]), "1.w": torch.tensor(values[3:])}


def known(number, names="ab", raw=RAW, gaps=GAPS, **table):
    layers = {str(layer): raw[number][layer] for layer in range(2)}
    seen = {names[i]: gaps[i][number] for i in range(2) if i != number}
    return Statistic.of(
        "sensitivity",
        {},
        **{"layers": json.dumps(layers), "gaps": json.dumps(seen), "grouping": "block", **table},
    )


def sens(statistics=None, **options):
    pool = {"a": halves(THETA1), "b": halves(THETA2)}
    given = [known(0), known(1)] if statistics is None else statistics
    found = merge(halves(BASE), pool, "sens_merging", statistics=given, **options)
    return np.concatenate([found["0.w"].numpy(), found["1.w"].numpy()])


def test_card_19():
    assert sens() == close([1.260465, -0.221513, 0.010465, 0.5, 0.394622, -0.549328])


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_rule_restated(temperature):
    alpha = np.array([np.array(row) / np.linalg.norm(row) for row in RAW])
    task = np.array([sum(row) for row in GAPS]) / 3.0
    power = np.exp(alpha * task[:, None] / temperature)
    sigma = np.repeat(2 * power / power.sum(0), 3, axis=1)
    expected = BASE + 0.5 * (sigma * np.array([TAU1, TAU2])).sum(0)
    assert sens(temperature=temperature, scale=0.5) == close(expected)


def test_a_high_temperature_is_task_arithmetic():
    pool = [halves(THETA1), halves(THETA2)]
    plain = merge(halves(BASE), pool, "task_arithmetic", scale=0.3)
    expected = np.concatenate([plain["0.w"].numpy(), plain["1.w"].numpy()])
    assert sens(temperature=1e9, scale=0.3) == close(expected)


def test_outputs_that_are_all_equal_leave_the_layers_to_decide():
    still = [known(i, gaps=[[0, 0], [0, 0]]) for i in range(2)]
    assert np.isfinite(sens(still)).all()


def test_every_other_expert_must_be_known():
    with pytest.raises(CheckpointError, match=r"'a' does not know how far 'b' is.*--against b=PATH"):
        sens([known(0, names="ax"), known(1)])


@pytest.mark.parametrize("text", ["", "[1]", '{"0": -1}', '{"0": "x"}', '{"0": Infinity}'])
def test_bad_headers_are_refused(text):
    with pytest.raises(CheckpointError, match="'a': expected names and numbers of 0 or more"):
        sens([known(0, layers=text), known(1)])


def test_one_grouping_for_all():
    with pytest.raises(CheckpointError, match="group tensors differently: block, tensor"):
        sens([known(0), known(1, grouping="tensor")])


def test_without_statistics():
    with pytest.raises(PlanError, match="taskloom collect sensitivity --model a"):
        merge(halves(BASE), {"a": halves(THETA1)}, "sens_merging")
