"""Every fit that can be named to taskloom auto is tried, or refused before anything is run."""

from __future__ import annotations

import pytest

import taskloom
from taskloom.errors import PlanError
from taskloom.registry import entries
from taskloom.runs.auto import making
from taskloom.runs.auto.portfolio import Wishes, portfolio
from taskloom.runs.plan import Limits

from .test_auto_portfolio import pool_of

FITS = [entry.name for entry in entries("fit")]
#: lorahub is for adapters, and these experts are none
REFUSED = {
    "divmerge": r"the target has no expert.*taskloom fit divmerge",
    "lorahub": r"cannot be tried on 3 experts \(full\)",
}


@pytest.mark.parametrize("name", FITS)
def test_what_cannot_be_tried_is_refused_by_name(name):
    pool = pool_of(3)
    wishes = Wishes("labels", methods=(name,))
    if name in REFUSED:
        with pytest.raises(PlanError, match=f"^{name} .*{REFUSED[name]}"):
            portfolio(pool, pool.names, wishes)
    else:
        assert f"fit {name}" in [member.name for member in portfolio(pool, pool.names, wishes)]


def test_every_other_fit_is_tried(world, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "shared", lambda count, share: min(count, 4))
    found = taskloom.auto(
        world.tasks["small"],
        world.base,
        world.experts,
        minutes=30,
        methods=[name for name in FITS if name not in REFUSED],
        tune={"steps": 1},
        limits=Limits(train=30, validation=24, test=20),
        output=tmp_path / "out",
    )
    fits = {row.name: row for row in found.rows if row.name.startswith("fit ")}
    assert set(fits) == {f"fit {name}" for name in FITS if name not in REFUSED}
    assert {name: row.why for name, row in fits.items() if row.last is None} == {}
