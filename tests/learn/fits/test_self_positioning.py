"""Self Positioning: the numbers of the card, shares, and pairs of embeddings."""

from dataclasses import replace

import pytest
import torch

from taskloom.errors import DataError
from taskloom.learn.fits.self_positioning import self_positioning
from taskloom.learn.probe import Examples

from ..toy import INPUTS, toy


def test_one_step_of_the_card():
    found = self_positioning(toy(), steps=2, rate=0.5)
    first, second = found.trace
    assert (round(first.loss, 6), round(second.loss, 6)) == (0.733769, 0.506551)
    assert round(second.values["mean one"], 6) == 0.830917
    assert round(second.values["mean two"], 6) == 0.658802
    assert found.said["labels"] == "used"


def test_shares_add_up_to_the_total():
    found = self_positioning(toy(), shape="shares", total=1.5, steps=5, rate=1.0)
    assert sum(found.options["values"].values()) == pytest.approx(1.5)
    assert found.trace[0].values["mean one"] == pytest.approx(0.75)
    assert found.trace[-1].loss < found.trace[0].loss


def test_tasks_weigh_the_same_however_many_examples_they_have():
    once = self_positioning(toy(), steps=1)
    inputs, labels = toy().batches["second"].__iter__().__next__()
    many = Examples.of([(inputs.repeat(5, 1), labels.repeat(5))])
    more = self_positioning(replace(toy(), batches={**toy().batches, "second": many}), steps=1)
    assert more.trace[0].loss == pytest.approx(once.trace[0].loss)
    assert more.options["values"] == pytest.approx(once.options["values"])


def test_pairs_of_embeddings_are_drawn_together():
    """Labels say what belongs together; there are more of them than the model has outputs."""
    generator = torch.Generator().manual_seed(0)
    batches = {}
    for task in INPUTS:
        anchors = torch.randn(6, 2, generator=generator, dtype=torch.float64)
        near = anchors + 0.3 * torch.randn(6, 2, generator=generator, dtype=torch.float64)
        pairs = torch.stack([anchors, near], 1).reshape(12, 2)
        batches[task] = Examples.of([(pairs, torch.arange(6).repeat_interleave(2))])
    on = replace(toy(), batches=batches)
    options = {"objective": "contrastive", "objective_options": {"temperature": 0.5}}
    found = self_positioning(on, **options, steps=10, rate=0.02)
    assert found.trace[-1].loss < found.trace[0].loss
    assert "collapse" not in found.said
    assert "largest class first" not in found.trace[0].values


def test_labels_are_needed():
    with pytest.raises(DataError, match="needs labels"):
        self_positioning(toy(labelled=False))
