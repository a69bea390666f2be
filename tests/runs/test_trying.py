"""Merges that are tried equal merges that are written."""

import pytest
import torch

import taskloom
from learn.search.small import adapted, pool
from learn.toy import toy
from taskloom.errors import PlanError
from taskloom.learn.fits.lorahub import lorahub
from taskloom.learn.fits.scale_search import scale_search
from taskloom.learn.fitted import Fitted, Step
from taskloom.runs.search_chart import is_search, search_chart
from taskloom.runs.trying import Merges, write_recipe
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import open_pool


@pytest.fixture
def opened(tmp_path):
    base, experts = pool(tmp_path / "pool")
    return open_pool(base, [*experts.values()], names=[*experts]), base, experts


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("task_arithmetic", {"scale": 0.7}),
        ("task_arithmetic", {"scale": 0.7, "weights": {"e0": 1.0, "e1": 0.5, "e2": -1.0}}),
        ("ties", {"density": 0.4, "scale": 1.2}),
        ("average", {}),
        ("dare_linear", {"p": 0.5, "scale": 0.5}),
        ("coefficients", {"values": {"e0": 0.1, "e1": 0.2, "e2": 0.3}}),
    ],
)
def test_what_is_tried_is_what_merge_makes(opened, method, options):
    found = Merges(opened[0])(method, options)
    wanted = taskloom.merge(opened[1], opened[2], method, **options)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


def test_a_line_is_merged_once(opened, monkeypatch):
    from taskloom.runs import line

    calls = []
    real = line.execute
    monkeypatch.setattr(line, "execute", lambda *a, **k: calls.append(1) or real(*a, **k))
    merges = Merges(opened[0])
    for scale in (0.1, 0.5, 0.9):
        merges("ties", {"density": 0.4, "scale": scale})
    assert len(calls) == 1
    merges("ties", {"density": 0.6, "scale": 0.9})
    assert len(calls) == 2


def test_the_factors_of_adapters(opened, tmp_path):
    weights = {"e0": 0.5, "e1": -0.25, "e2": 1.0}
    found = Merges(opened[0])("lorahub", {"weights": weights})
    path = write_recipe(opened[0], "lorahub", {"weights": weights}, tmp_path / "out")
    ours = open_checkpoint(path, base=open_checkpoint(opened[1]))
    for name in ours.tensors:
        torch.testing.assert_close(found[name], ours.read(name))
    assert (tmp_path / "out" / "adapter_config.json").is_file()


def test_a_model_is_written_where_there_is_a_rule_for_it(opened, tmp_path):
    path = write_recipe(opened[0], "task_arithmetic", {"scale": 0.5}, tmp_path / "out")
    wanted = taskloom.merge(opened[1], opened[2], "task_arithmetic", scale=0.5)
    ours = open_checkpoint(path)
    assert all(torch.equal(ours.read(name), tensor) for name, tensor in wanted.items())


def test_statistics_are_not_there(opened):
    with pytest.raises(PlanError, match=r"fisher needs statistics of the experts \(fisher\)"):
        Merges(opened[0])("fisher", {})


# --- the picture ------------------------------------------------------------------------------


def test_a_search_is_known_by_its_best(tmp_path):
    on, _, _ = adapted(tmp_path)
    found = lorahub(on, evaluations=6)
    assert is_search(found)
    spec = search_chart(found)
    assert len(spec["vconcat"]) == 1
    assert [row["step"] for row in spec["data"]["values"]] == [1, 2, 3, 4, 5, 6]
    bests = [row["best"] for row in spec["data"]["values"]]
    assert bests == sorted(bests, reverse=True)
    assert not is_search(Fitted("average", {}, (Step(1, 0.5, 0.1),)))
    assert not is_search(Fitted("average", {}))


def test_two_tasks_have_a_front():
    on = toy()
    object.__setattr__(on, "merge", lambda m, o: taskloom.merge(on.base, on.experts, m, **o))
    spec = search_chart(scale_search(on, objective="cross_entropy", levels=4))
    assert len(spec["vconcat"]) == 2
    assert {row["kind"] for row in spec["data"]["values"]} <= {"on the front", "beaten"}
    assert all("loss first" in row for row in spec["data"]["values"])


def test_what_is_not_finite_is_not_drawn():
    trace = (Step(1, float("nan"), 0.0, {"best": float("inf")}), Step(2, 1.0, 0.0, {"best": 1.0}))
    rows = search_chart(Fitted("average", {}, trace))["data"]["values"]
    assert [(row["loss"], row["best"]) for row in rows] == [(None, None), (1.0, 1.0)]
