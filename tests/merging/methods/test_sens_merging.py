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


#: merges of task vectors, as steps, and as the method on task vectors that were weighted by hand
HOSTS = [
    (["total", {"scale": 0.3}], "task_arithmetic", {}),
    ([{"keep": 0.5}, "elect", {"mean": "kept"}, {"scale": 1.0}], "ties", {"density": 0.5}),
    ([{"drop": 0.5}, "total", {"scale": 0.3}], "dare_linear", {"p": 0.5}),
    ([{"compete": {"ratio": 0.5}}, {"scale": 1.2}], "pcb", {"ratio": 0.5}),
    ([{"weigh_by_size": 2.0}, "total"], "metagpt", {}),
]


@pytest.mark.parametrize(("host", "method", "options"), HOSTS, ids=[method for _, method, _ in HOSTS])
def test_it_goes_on_top_of_any_merge_of_task_vectors(host, method, options):
    """As a step before the host's: the host merges the weighted task vectors."""
    pool = {"a": halves(THETA1), "b": halves(THETA2)}
    steps = [{"weigh_by_sensitivity": 1.0}, *host]
    found = merge(halves(BASE), pool, steps, statistics=[known(0), known(1)])
    sigma = np.repeat([[2 * 0.520931, 2 * 0.605378], [2 * 0.479069, 2 * 0.394622]], 3, axis=1)
    weighted = {
        name: halves((np.array(BASE) + row * np.array(tau)).astype("f4").tolist())
        for name, row, tau in zip("ab", sigma, (TAU1, TAU2), strict=True)
    }
    wanted = merge(halves(BASE), weighted, method, **options)
    for name in ("0.w", "1.w"):
        assert found[name].numpy() == close(wanted[name].numpy())
    plain = merge(halves(BASE), pool, method, **options)
    assert not torch.equal(plain["0.w"], found["0.w"])


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
