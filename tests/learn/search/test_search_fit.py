"""Searches as fits: what a journal holds is taken for the same problem only."""

import dataclasses

import pytest
import torch

import taskloom
from taskloom.learn.fits.scale_search import scale_search
from taskloom.learn.probe import Examples
from taskloom.learn.search import fit

from ..toy import toy

FRESH, KNOWN = "3, 3 of them measured now", "3, 0 of them measured now"
SWAPPED = {"first": "two", "second": "one"}


def scaled(on, objective):
    base = {name: on.base.read(name) for name in on.base.tensors}
    experts = {n: {t: e.read(t) for t in e.tensors} for n, e in on.experts.items()}

    def merge(method, options):
        return taskloom.merge(base, experts, method, **options)

    return scale_search(dataclasses.replace(on, merge=merge), objective=objective, levels=3)


def test_another_expert_to_compare_with_is_another_search(tmp_path):
    on = toy(labelled=False, journal=tmp_path / "journal.jsonl")
    swapped = dataclasses.replace(on, own=SWAPPED)
    one, other = scaled(on, "js_divergence"), scaled(swapped, "js_divergence")
    assert one.said["evaluations"] == other.said["evaluations"] == FRESH
    alone = scaled(dataclasses.replace(swapped, journal=None), "js_divergence")
    assert [s.loss for s in other.trace] == [s.loss for s in alone.trace]
    assert [s.loss for s in other.trace] != [s.loss for s in one.trace]
    assert scaled(on, "js_divergence").said["evaluations"] == KNOWN


def test_experts_do_not_matter_where_nothing_is_compared_with_them(tmp_path):
    on = toy(labelled=False, journal=tmp_path / "journal.jsonl")
    assert scaled(on, "entropy").said["evaluations"] == FRESH
    assert scaled(dataclasses.replace(on, own=SWAPPED), "entropy").said["evaluations"] == KNOWN


@pytest.mark.parametrize("library", [fit, fit.torch], ids=["taskloom", "torch"])
def test_another_version_measures_anew(tmp_path, monkeypatch, library):
    on = toy(labelled=False, journal=tmp_path / "journal.jsonl")
    assert scaled(on, "entropy").said["evaluations"] == FRESH
    monkeypatch.setattr(library, "__version__", "99.0")
    assert scaled(on, "entropy").said["evaluations"] == FRESH


def test_a_search_can_contrast_embeddings():
    x = torch.tensor([[1.0, 0.2], [0.9, -0.1], [-0.3, 1.0], [0.1, 0.8]], dtype=torch.float64)
    pairs = {"first": Examples.of([(x, torch.tensor([0, 0, 5, 5]))])}
    found = scaled(dataclasses.replace(toy(tasks=("first",)), batches=pairs), "contrastive")
    assert found.said["labels"] == "used"
    assert not any(name.startswith("one class") for name in found.trace[0].values)
