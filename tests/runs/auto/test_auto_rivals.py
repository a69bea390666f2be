"""The check of taskloom auto: every expert of the pool is in it while there is time, or is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import taskloom
from taskloom.progress import silent
from taskloom.runs.auto import api, ending, workbench
from taskloom.runs.auto.api import plain
from taskloom.runs.auto.costs import Costs
from taskloom.runs.auto.ground import lay
from taskloom.runs.auto.portfolio import Wishes, portfolio, rivals
from taskloom.runs.desk import open_desk
from taskloom.runs.judging import by_reason
from taskloom.runs.plan import Limits
from taskloom.store.pool import open_pool

from .conftest import tuned
from .test_auto_portfolio import pool_of

LIMITS = Limits(train=96, validation=72, test=60)
#: three that know nothing rank first, the one that knows the words of the target last
ORDER = ["noise", "balls", "third", "fourth", "films"]


@pytest.fixture(scope="module")
def many(world, tmp_path_factory):
    root, base = tmp_path_factory.mktemp("rivals"), Path(world.base)
    more = {
        "third": tuned(base, root / "third", (), noise=0.2),
        "fourth": tuned(base, root / "fourth", (), noise=0.4),
    }
    return {name: {**world.experts, **more}[name] for name in ORDER}


@pytest.fixture
def ranked(monkeypatch):
    monkeypatch.setattr(api, "look", lambda *_: (ORDER[:4], ORDER[4:]))


def run(world, many, output, minutes, clock, **more):
    given = {"methods": ["slerp"] if len(many) == 2 else ["ties"], "limits": LIMITS, **more}
    return taskloom.auto(
        world.tasks["two"], world.base, many, minutes=minutes, output=output, clock=clock, **given
    )


def told(found):
    kept = json.loads(json.dumps(plain(found)), parse_float=lambda text: round(float(text), 6))
    return {key: kept[key] for key in kept if key not in ("path", "model", "page", "picture")}


def test_an_expert_that_did_not_climb_is_judged_and_may_win(world, many, ranked, paced, tmp_path):
    found = run(world, many, tmp_path / "out", 30, paced(), tune={"steps": 1})
    assert {"fourth", "films", "fine-tune", "average"} <= set(found.verdict.values)
    assert found.verdict.absent == {}
    assert found.winner == found.verdict.winner == "films"
    row = found.row("films")
    assert (row.points, row.why, row.check.n) == ((), "only in the check", 36)
    assert [row.name for row in found.rows][-3:] == ["fourth", "films", "fine-tune"]
    assert any("the check took films" in note for note in found.notes)
    assert found.title == "Expert films"
    assert "Expert films" in (tmp_path / "out" / "report.html").read_text()
    assert {s.model for s in found.tests} >= {"films", "base"}


def test_who_there_was_no_time_for_is_named(world, many, ranked, paced, tmp_path):
    found = run(world, many, tmp_path / "out", 2.6, paced())
    assert found.seconds <= 60 * 2.6
    judged = set(found.verdict.values)
    missing = {*many, "average", "fine-tune"} - judged
    assert missing
    assert set(found.verdict.absent) == missing
    assert all(why for why in found.verdict.absent.values())
    for name in missing:
        assert name in found.reason
        assert found.row(name).check is None


def test_an_interrupted_run_ends_as_it_would_have_ended(world, many, ranked, paced, tmp_path):
    whole = paced()
    wanted = run(world, many, tmp_path / "whole", 5, whole, tune={"steps": 1})
    assert "films" in wanted.verdict.values
    for most in (whole.runs - len(wanted.tests) - 6, 4):  # both while rivals are checked
        with pytest.raises(KeyboardInterrupt):
            run(world, many, tmp_path / "parts", 5, paced(most=most), tune={"steps": 1})
    found = run(world, many, tmp_path / "parts", 5, paced(), tune={"steps": 1})
    assert told(found) == told(wanted)


def test_without_labels_every_expert_is_checked_too(world, many, headed, ranked, paced, tmp_path):
    found = run(world, many, tmp_path / "out", 30, paced(), labels=0)
    assert found.row("fourth").check is not None
    assert found.winner == "films"
    assert "fine-tune" not in {row.name for row in found.rows}


def test_who_is_no_member_is_a_rival():
    pool = pool_of(5)
    for ranked in (["e4", "e2", "e0", "e1", "e3"], ["e4", "e2", "e0", "e1"]):
        for methods, more in ((None, []), (("ties",), ["fine-tune"])):
            wishes = Wishes("labels", methods=methods)
            members = portfolio(pool, ranked, wishes)
            assert [m.name for m in rivals(pool, ranked, members, wishes)] == ["e1", "e3", *more]
    unlabeled = Wishes("unlabeled", methods=("ties",))
    members = portfolio(pool, pool.names, unlabeled)
    assert [m.name for m in rivals(pool, pool.names, members, unlabeled)] == ["e3", "e4"]


def test_a_check_and_what_follows_it_are_the_whole_price(world):
    """The winner of few labels is fitted once more: that time is held back while rivals are checked."""
    data, _ = api.load_target(world.tasks["small"], 24, LIMITS, 0, lambda *_: None)
    ground = lay(data, seed=0)
    assert ground.regime == "cross-validation"
    costs = Costs(ground, pace=0.5)
    pool = pool_of(2)
    members = {m.name: m for m in portfolio(pool, pool.names, Wishes("labels"))}
    tested = 0.5 * data.n_test
    assert costs.hand(members["e0"], 1.0) == tested
    tuned_again = costs.hand(members["fine-tune"], 1.0) - tested
    final = len(ground.final(1.0))
    assert tuned_again == costs.predict(
        members["fine-tune"], members["fine-tune"].work(1.0, final) + final
    )
    for member in members.values():
        whole = costs.check(member, 1.0, made=False) + costs.hand(member, 1.0)
        assert costs.finish(member, 1.0, made=False) == pytest.approx(whole)


def test_rivals_of_one_reason_are_told_together():
    assert by_reason({"a": "no time", "b": "no time"}) == {"no time": "a and b were"}
    assert ending.RIVALS == ("base", "expert", "merge", "fine-tune")


def test_another_version_works_anew(world, monkeypatch):
    """What an earlier version measured or fitted is not taken for what this one would."""
    data, _ = api.load_target(world.tasks["small"], None, LIMITS, 0, lambda *_: None)
    desk, pool = (
        open_desk(world.base, seed=0, progress=silent),
        open_pool(world.base, list(world.experts.values())),
    )
    rows = np.arange(4)

    def digests():
        bench = workbench.Workbench(desk, pool, lay(data, seed=0), {})
        return bench.digest, workbench.Lot(bench, rows, 1.0).digest

    first = digests()
    assert digests() == first
    monkeypatch.setattr(workbench, "__version__", "another")
    assert not set(digests()) & set(first)
