"""JSON for machines, tables for people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from taskloom.cli.output import plain, print_json, print_table


class Model(BaseModel):
    at: Path
    value: float


@dataclass
class Pair:
    left: object
    right: object


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("inf"), None),
        (True, True),
        (Pair(Path("x"), {1, 2}), {"left": "x", "right": [1, 2]}),
        (Model(at=Path("a"), value=float("nan")), {"at": "a", "value": None}),
        (np.array([1.5, np.nan]), [1.5, None]),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (torch.tensor([[1, 2]]), [[1, 2]]),
        ({("a", 1): None}, {"('a', 1)": None}),
        (torch.float32, "torch.float32"),
    ],
)
def test_plain_makes_json_types(value, expected):
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_json_keeps_letters(capsys):
    print_json({"name": "größe"})
    assert "größe" in capsys.readouterr().out


def test_a_table_is_not_cut_where_no_terminal_limits_it(capsys):
    print_table("Title", ["name", "value>"], [["x" * 90, 0.123456], ["[red]y", None]])
    out = capsys.readouterr().out
    assert "x" * 90 in out
    assert "0.1235" in out
    assert "[red]y" in out, "text of the data is not markup"
