"""Built-in YAML files by name, others by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskloom.errors import PlanError, UnknownName
from taskloom.runs.shelf import Shelf

SHELF = Shelf("suite", "taskloom.runs", "suites")


def test_a_name_is_the_file_of_that_name():
    assert SHELF.names() == ["image", "text"]
    content, where = SHELF.read("text")
    assert (content["name"], where) == ("text", "suite 'text'")


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_that_file(suffix, kind, tmp_path):
    path = tmp_path / f"text.{suffix}"
    path.write_text("name: mine\n", encoding="utf-8")
    assert SHELF.read(kind(path)) == ({"name": "mine"}, f"suite {str(path)!r}")


def test_what_is_neither_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="unknown suite 'txt': did you mean 'text'"):
        SHELF.read("txt")
    with pytest.raises(UnknownName, match="unknown suite 'text'"):
        SHELF.read(Path("text"))
    with pytest.raises(PlanError, match=r"suite '.*none\.yaml'"):
        SHELF.read(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [", encoding="utf-8")
    with pytest.raises(PlanError, match=r"suite '.*bad\.yaml'.*YAML"):
        SHELF.read(bad)
