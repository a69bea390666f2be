"""The list of systems, and what counts as a claim and as its proof."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskloom import registry
from taskloom.errors import PlanError
from taskloom.registry import Entry
from taskloom.systems import list_tests, proof_file, rows, standings

ROOT = Path(__file__).resolve().parents[2]


def claim(name: str, *systems: str, partly=None) -> Entry:
    return Entry("merge", name, lambda: None, systems=systems, partly=partly or {})


@pytest.fixture
def tree(tmp_path):
    def write(name: str, text: str = "def test_it():\n    pass\n") -> str:
        relative = proof_file("merge", name)
        (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / relative).write_text(text)
        return relative

    return tmp_path, write


def standing(name, entries, root):
    return next(s for s in standings(entries, root) if s.system.name == name)


def test_the_list_is_whole():
    names = [system.name for system in rows()]
    assert len(names) == 208
    assert len(set(names)) == 208
    assert all(system.done_when and system.family and system.kind for system in rows())


def test_what_nobody_claims_is_not_yet(tree):
    assert {s.status for s in standings([], tree[0])} == {"not yet"}


def test_a_full_claim_with_tests_works(tree):
    root, write = tree
    proof = write("cabs")
    found = standing("CABS", [claim("cabs", "CABS")], root)
    assert (found.status, found.entries, found.proof) == ("works", ("merge/cabs",), (proof,))


@pytest.mark.parametrize("text", [None, "", "def helper():\n    pass\n"])
def test_a_full_claim_without_tests_is_only_partly(tree, text):
    root, write = tree
    if text is not None:
        write("cabs", text)
    found = standing("CABS", [claim("cabs", "CABS")], root)
    assert found.status == "partly"
    assert found.missing == "tests in tests/merging/methods/test_cabs.py"


def test_a_claim_in_part_says_what_is_missing(tree):
    root, write = tree
    proof = write("cabs")
    found = standing("CABS", [claim("cabs", partly={"CABS": "n:m pruning"})], root)
    assert (found.status, found.proof, found.missing) == ("partly", (proof,), "n:m pruning")


def test_two_entries_may_share_a_system(tree):
    root, write = tree
    write("head")
    write("tail")
    entries = [claim("head", partly={"CABS": "the tail"}), claim("tail", "CABS")]
    found = standing("CABS", entries, root)
    assert found.status == "works"
    assert set(found.entries) == {"merge/head", "merge/tail"}


def test_a_claim_on_a_system_that_is_not_listed_is_refused(tree):
    with pytest.raises(PlanError, match=r"'CABSS', which is not in.*nearest: 'CABS'"):
        standings([claim("cabs", "CABSS")], tree[0])


def test_tests_in_classes_count_and_helpers_do_not(tmp_path):
    path = tmp_path / "test_x.py"
    path.write_text(
        "def test_a(): ...\ndef helper(): ...\n"
        "class TestB:\n    def test_c(self): ...\n    def help(self): ...\n"
        "class Other:\n    def test_d(self): ...\n"
    )
    assert list_tests(path) == ["test_a", "TestB::test_c"]
    assert list_tests(tmp_path / "absent.py") == []


def test_every_claim_of_the_project_is_proved():
    """A claim may be partial, but the tests it names exist."""
    claimed = [s for s in standings(registry.entries(), ROOT) if s.entries]
    assert claimed
    for found in claimed:
        assert found.proof, f"{found.system.name} is claimed by {found.entries} without tests"
