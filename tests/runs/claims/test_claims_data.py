"""data/claims.yaml against its schema and the registry."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from taskloom import registry
from taskloom.errors import UnknownName
from taskloom.runs.claims.claim import BASE, FAMILIES, Better, Record, Untestable, record, records
from taskloom.runs.claims.learned import learned
from taskloom.runs.claims.measures import EXPERT

CLAIMS = [
    pytest.param(name, claim, id=f"{name}-{number}")
    for name, found in {**records(), **learned()}.items()
    for number, claim in enumerate(found.claims)
]


def test_every_method_has_a_record_and_every_record_a_method():
    assert sorted(records()) == sorted(entry.name for entry in registry.entries("merge"))


def test_every_family_has_members():
    assert {found.family for found in records().values()} == set(FAMILIES)


@pytest.mark.parametrize(("name", "claim"), CLAIMS)
def test_rivals_are_registered_and_not_the_method_itself(name, claim):
    if isinstance(claim.check, Better):
        for rival in claim.check.than:
            assert rival != name
            assert rival in (BASE, EXPERT, *learned()) or registry.get("merge", rival)


@pytest.mark.parametrize(("name", "claim"), CLAIMS)
def test_sentences_are_sentences_and_reasons_fit_into_one(name, claim):
    assert re.match(r"[A-Z].*[^.]\.$", claim.sentence)
    if isinstance(claim.check, Untestable):
        assert not claim.check.why.endswith(".")


def test_sources_are_linked():
    for found in (*records().values(), *learned().values()):
        assert found.links
        for link in found.links:
            assert link.startswith(("https://arxiv.org/abs/", "https://github.com/"))


def test_a_name_without_record_offers_the_nearest():
    with pytest.raises(UnknownName, match=r"'tie' in data/claims.yaml: did you mean 'ties'"):
        record("tie")


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"kind": "better", "than": []}, "at least 1"),
        ({"kind": "better", "than": ["ties"], "yardstick": "speed"}, "accuracy"),
        ({"kind": "better", "than": ["ties"], "margin": float("nan")}, "finite"),
        ({"kind": "retains", "at_least": 0}, "greater than 0"),
        ({"kind": "untestable"}, "why"),
        ({"kind": "faster", "than": ["ties"]}, "better"),
        ({"kind": "better", "then": ["ties"]}, "did you mean 'than'"),
    ],
)
def test_a_check_that_says_nothing_is_refused(check, said):
    claim = {"source": "s", "where": "w", "seen": "code", "sentence": "S.", "check": check}
    content = {"family": "spectra", "merges": ["tasks"], "claims": [claim]}
    with pytest.raises(ValidationError, match=said):
        Record.model_validate(content)
