"""What the list of systems says of merging methods, held against the rows that were measured.

Read from `benchmarks/results/claims.json`: full experts, three seeds, twelve image and eight text tasks.
"""

from pathlib import Path

import pytest

from taskloom import registry
from taskloom.runs.claims.claim import Better, records
from taskloom.runs.claims.measures import index, scopes
from taskloom.runs.claims.results import read_results
from taskloom.runs.claims.verdict import judge

ROWS = read_results(Path(__file__).parents[3] / "benchmarks" / "results" / "claims.json").rows
INDEX = index(ROWS)
FULL = [scope for scope in scopes(ROWS) if scope.experts == "full"]


def against(method, rival):
    verdict = judge(Better(kind="better", than=[rival], experts="full"), method, INDEX, FULL)
    (found,) = verdict.comparisons
    return found


def missing(method, system):
    return registry.get("merge", method).partly[system]


def test_tall_masks_bring_back_the_experts_accuracy():
    (claim,) = records()["tall_masks"].claims
    verdict = judge(claim.check, "tall_masks", INDEX, FULL)
    assert verdict.word == "holds"
    (retained,) = verdict.comparisons
    assert (retained.against, retained.mark) == ("expert", 0.99)
    assert retained.mean.value > 0.99
    assert retained.mean.tasks == 20


@pytest.mark.parametrize("method", ["tall_masks", "consensus"])
def test_bytes_that_are_stored(method):
    """Fewer than those of one model a task, and of consensus those of one model."""
    tried = 0
    for scope in FULL:
        (single,) = {row.stored_bytes for row in INDEX["base", scope]}
        experts = {row.seed: row.stored_bytes for row in INDEX["expert", scope]}
        for row in INDEX[method, scope]:
            assert experts[row.seed] == scope.count * single
            assert row.stored_bytes < experts[row.seed] / 3
            assert (row.stored_bytes == single) == (method == "consensus")
            tried += 1
    assert tried == 6


@pytest.mark.parametrize(
    ("method", "host", "word"),
    [("consensus", "task_arithmetic", "holds"), ("consensus_ties", "ties", "not decided here")],
)
def test_dropping_selfish_and_catastrophic_weights_is_compared_with_the_merge_itself(method, host, word):
    found = against(method, host)
    assert found.word == word
    assert found.mean.value > 0


def test_breadcrumbs_is_compared_over_growing_pools_and_tuned_anew_in_each():
    pools = {}
    for row in ROWS:
        if (row.suite, row.experts, row.seed) == ("image", "full", 0) and row.scores:
            pools.setdefault(row.method, {})[row.count] = row
    ours, sums = pools["breadcrumbs"], pools["task_arithmetic"]
    assert set(ours) == set(sums) == {2, 4, 6, 8, 12}
    assert len({str(row.options) for row in ours.values()}) == 1  # its masks are the same everywhere
    assert len({row.chosen["scale"] for row in ours.values()}) > 1  # and its scale is not
    assert "scale is chosen anew" in missing("breadcrumbs", "Model Breadcrumbs")


def test_pcb_beats_task_arithmetic_and_not_ties_for_certain():
    assert against("pcb", "task_arithmetic").word == "holds"
    assert against("pcb", "ties").word == "not decided here"
    said = missing("pcb", "PCB-Merging")
    assert "better than task arithmetic" in said
    assert "not decided against TIES" in said


@pytest.mark.parametrize("rival", ["magnitude_pruning", "ties"])
def test_cabs_does_not_beat_pruned_merges_at_nearly_its_density(rival):
    scope = FULL[0]
    (row,) = [row for row in INDEX["cabs", scope] if row.seed == 0]
    (other,) = [row for row in INDEX[rival, scope] if row.seed == 0]
    assert row.options["n"] / row.options["m"] == 0.25
    assert other.options["density"] == 0.2
    found = against("cabs", rival)
    assert found.word == "not decided here"
    assert found.mean.value < 0
    assert "not better than merges pruned by magnitude" in missing("cabs", "CABS")


def test_lwptv_was_measured_in_domain_only():
    assert against("lwptv", "task_arithmetic").word == "not decided here"
    assert "no task out of domain" in missing("lwptv", "LwPTV")
