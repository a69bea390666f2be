"""Plans whose merges need statistics or a scorer: collected, chosen, kept for the next run."""

import pytest

from taskloom.runs.pipeline import run

from .conftest import plan_with

pytestmark = pytest.mark.slow

MERGES = [
    "average",
    {"fisher": {"normalize": True}},
    {"regmean": {"sweep": {"off_diagonal": [0.5, 1.0]}}},
    {"sens_merging": {"sweep": {"scale": [0.3, 1.0]}}},
    "graft",
    "greedy_soup",
]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    limits = {"train": 24, "validation": 20, "test": 20}
    plan = plan_with(name="known", merge=MERGES, targets=[], limits=limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASKLOOM_CACHE", str(folder / "cache"))
        first = run(plan, output=folder / "out")
        again = run(plan, output=folder / "out")
    return first, again


def test_every_merge_is_scored(done):
    first, _ = done
    names = {model.name for model in first.models if model.kind == "merge"}
    assert names == {"average", "fisher", "regmean", "sens_merging", "graft", "greedy_soup"}
    assert {point.method for point in first.sweeps} == {"regmean", "sens_merging"}


def test_the_soup_says_what_is_in_it(done):
    (soup,) = [model for model in done[0].models if model.name == "greedy_soup"]
    chosen = soup.options["ingredients"]
    assert chosen
    assert set(chosen) <= {"digits_parity", "digits_mod3"}


def test_a_second_run_collects_nothing_and_finds_the_same(done):
    first, again = done
    assert "8 statistics" in again.lock.skipped  # four statistics of two experts
    assert [m.digest for m in again.models] == [m.digest for m in first.models]
