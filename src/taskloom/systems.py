"""The published systems this project sets out to bring, and what of each is there today.

The list is data (``data/systems.tsv``). A claim is made where the code is: a registered function
names the systems it brings (``@register(..., systems=...)``) or brings in part (``partly=...``),
and its proof is the test file of its name, in the folder of tests that mirrors its room. A claim
without tests is only half a claim.

>>> rows()[1].name
'Task arithmetic (Editing Models with Task Arithmetic)'
>>> proof_file("merge", "dare_ties")
'tests/merging/methods/test_dare_ties.py'
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

from taskloom.errors import PlanError, nearest
from taskloom.registry import ROOMS, Entry

Status = Literal["works", "partly", "not yet"]


@dataclass(frozen=True)
class System:
    """One row of the list."""

    family: str
    name: str
    kind: str  # "method", "system", "empirical study" or "dataset/benchmark"
    needs: str
    done_when: str
    claim: str  # what its paper claims, in the paper's words; may be empty
    title: str  # of the paper


@dataclass(frozen=True)
class Standing:
    """What is there of one system: the claims on it and the tests that prove them."""

    system: System
    status: Status
    entries: tuple[str, ...] = ()  # "family/name", e.g. "merge/ties"
    proof: tuple[str, ...] = ()  # test files, relative to the repository
    missing: str = ""


@lru_cache
def rows() -> tuple[System, ...]:
    """Every system of the list, in its order."""
    text = resources.files("taskloom").joinpath("data/systems.tsv").read_text("utf-8")
    reader = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(
        System(
            family=row["family"],
            name=row["system"],
            kind=row["kind"],
            needs=row["needs"],
            done_when=row["done_when"],
            claim=row["claim"],
            title=row["title"],
        )
        for row in reader
    )


def proof_file(family: str, name: str) -> str:
    """Return the test file of a registered function, relative to the repository."""
    _, *folders = ROOMS[family].split(".")
    return "/".join(["tests", *folders, f"test_{name}.py"])


def list_tests(path: Path) -> list[str]:
    """Names of the tests that pytest collects from a file, in order; [] if it is absent."""
    if not path.is_file():
        return []
    found = []
    for node in ast.parse(path.read_text("utf-8")).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        if isinstance(node, ast.ClassDef) and not node.name.startswith("Test"):
            continue
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found += [
            prefix + member.name
            for member in members
            if isinstance(member, ast.FunctionDef) and member.name.startswith("test_")
        ]
    return found


def standings(entries: Iterable[Entry], root: Path) -> list[Standing]:
    """Hold every system against the claims of ``entries`` and the tests under ``root``.

    A system works if an entry claims it in full and the entry's test file has tests; it is there
    partly if it is claimed in part (with what is missing) or if a full claim lacks its tests.

    Parameters
    ----------
    entries
        Registered functions; only those that name a system matter.
    root
        The repository's root, where ``tests/`` is.

    Raises
    ------
    PlanError
        An entry claims a system that is not in the list.
    """
    known = {system.name: system for system in rows()}
    full: dict[str, list[Entry]] = {}
    partly: dict[str, list[Entry]] = {}
    for entry in entries:
        for name in (*entry.systems, *entry.partly):
            if name not in known:
                raise PlanError(
                    f"{entry.family}/{entry.name} claims the system {name!r}, which is not in "
                    f"data/systems.tsv (nearest: {nearest(name, known)!r})"
                )
        for name in entry.systems:
            full.setdefault(name, []).append(entry)
        for name in entry.partly:
            partly.setdefault(name, []).append(entry)
    return [
        _standing(system, full.get(system.name, []), partly.get(system.name, []), root)
        for system in rows()
    ]


def _standing(system: System, full: list[Entry], partly: list[Entry], root: Path) -> Standing:
    claims = [*full, *partly]
    if not claims:
        return Standing(system, "not yet")
    names = tuple(f"{entry.family}/{entry.name}" for entry in claims)
    files = dict.fromkeys(proof_file(entry.family, entry.name) for entry in claims)
    proof = tuple(file for file in files if list_tests(root / file))
    untested = [file for file in files if file not in proof]
    missing = [entry.partly[system.name] for entry in partly]
    if not full or untested:
        missing += [f"tests in {file}" for file in untested]
        return Standing(system, "partly", names, proof, "; ".join(missing))
    return Standing(system, "works", names, proof)
