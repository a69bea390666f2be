"""What needs an optional package says which extra brings it."""

import sys

import numpy as np
import pytest

from taskloom import registry
from taskloom.errors import MissingExtra
from taskloom.evaluation.formats import read_rows
from taskloom.evaluation.load import load_task
from taskloom.evaluation.pictures import decode_picture, grey_pictures
from taskloom.evaluation.rows import SourceContext
from taskloom.evaluation.score import score


@pytest.fixture
def without(monkeypatch):
    def hide(package):
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return hide


def test_scoring_without_scikit_learn(without):
    without("sklearn")
    with pytest.raises(MissingExtra, match=r"scoring needs.*taskloom\[run\]"):
        score(np.array([0, 1]), np.array([0, 1]))


def test_built_ins_without_scikit_learn(without):
    without("sklearn")
    with pytest.raises(MissingExtra, match=r"'wine' needs.*taskloom\[run\]"):
        load_task("wine")


def test_parquet_without_pyarrow(without):
    without("pyarrow")
    with pytest.raises(MissingExtra, match=r"parquet needs.*taskloom\[hub\]"):
        read_rows(b"", name="d.parquet")


def test_hub_without_datasets(without, tmp_path):
    without("datasets")
    with pytest.raises(MissingExtra, match=r"'toy' needs.*taskloom\[hub\]"):
        registry.get("source", "hub").function(SourceContext(tmp_path, "toy"), path="some/set")


def test_pictures_without_pillow(without):
    without("PIL")
    with pytest.raises(MissingExtra, match=r"x\.png needs.*taskloom\[images\]"):
        decode_picture(b"", name="x.png")


def test_resizing_without_pillow_but_padding_with_none(without):
    without("PIL")
    pixels = np.ones((1, 8, 8), np.uint8)
    assert grey_pictures(pixels, fit="pad").shape == (1, 32, 32, 3)
    with pytest.raises(MissingExtra, match=r"resizing pictures needs.*taskloom\[images\]"):
        grey_pictures(pixels, fit="resize")
