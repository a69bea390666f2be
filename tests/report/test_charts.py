import json
import math
import warnings

import pytest
import vl_convert

from taskloom.runs.report.charts import figures
from taskloom.runs.report.index import Index
from taskloom.runs.report.pictures import picture_spec, save_pictures
from taskloom.runs.report.theme import LIGHT

from .fixture import HOSTILE, empty, hostile, realistic


def every(result):
    return {f.key: f for group in figures(Index(result)).values() for f in group}


def strings(value, skip=("data", "domain", "tooltip", "title")):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in skip:
                yield from strings(item, skip)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item, skip)


def test_one_chart_for_each_thing_found():
    found = figures(Index(realistic()))
    assert {name: len(group) for name, group in found.items()} == {
        "leaderboard": 1, "tasks": 1, "merges": 1, "transfer": 1, "cosines": 1, "sweeps": 3,
        "rankings": 8,
    }  # fmt: skip


def test_keys_are_unique_and_every_chart_has_words():
    found = [f for group in figures(Index(realistic())).values() for f in group]
    assert len({f.key for f in found}) == len(found)
    assert all(f.title and f.caption and f.description for f in found)


def test_no_data_no_charts():
    assert every(empty()) == {}


def test_names_never_enter_an_expression():
    for figure in every(hostile()).values():
        assert HOSTILE not in list(strings(figure.spec)), figure.key


def test_kinds_differ_in_shape_as_well_as_colour():
    layer = every(realistic())["leaderboard"].spec["layer"][1]["encoding"]
    assert len(set(layer["shape"]["scale"]["range"])) == 3
    assert len(set(layer["color"]["scale"]["range"])) == 3


def test_leaderboard_shows_points_in_order():
    rows = every(realistic())["leaderboard"].spec["data"]["values"]
    assert [row["value"] for row in rows] == sorted((row["value"] for row in rows), reverse=True)
    assert all(0 < row["low"] < row["value"] < row["high"] <= 100 for row in rows)


def test_own_expert_is_marked_on_its_task_only():
    rows = every(realistic())["tasks"].spec["data"]["values"]
    own = [(row["task"], row["model"]) for row in rows if row["series"] == "expert of the task"]
    assert len(own) == 8
    assert all(model == f"Expert: {task}" for task, model in own)


def test_heatmap_cells_carry_their_sign():
    rows = every(realistic())["transfer"].spec["data"]["values"]
    for row in rows:
        negative = row["text"].startswith("\N{MINUS SIGN}")
        assert ("heat-low" in row["fill"]) == negative, row
    assert sum(row["framed"] for row in rows) == 8


def test_cells_without_a_number_stay_blank():
    rows = every(hostile())["transfer"].spec["data"]["values"]
    assert [row["text"] for row in rows[:2]] == ["\N{EN DASH}", "\N{EN DASH}"]
    assert rows[0]["fill"] == "var(--card)"


def test_sweep_has_one_star():
    for key, figure in every(realistic()).items():
        if key.startswith("sweep"):
            assert sum(row["chosen"] for row in figure.spec["data"]["values"]) == 1
            assert "(★)" in figure.caption


def test_interleaved_sweeps_stay_one_chart_a_method():
    result = realistic()
    mixed = sorted(result.sweeps, key=lambda p: p.setting)
    assert len(figures(Index(result.model_copy(update={"sweeps": mixed})))["sweeps"]) == 3


def test_not_finite_sweep_points_are_left_out():
    result = realistic()
    points = [p.model_copy(update={"value": math.nan}) for p in result.sweeps]
    assert figures(Index(result.model_copy(update={"sweeps": points})))["sweeps"] == []


@pytest.mark.parametrize("make", [realistic, hostile])
def test_every_chart_compiles(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for figure in every(make()).values():
            spec = picture_spec(figure, LIGHT)
            assert "var(--" not in json.dumps({k: v for k, v in spec.items() if k != "data"})
            assert vl_convert.vegalite_to_vega(spec)["marks"]


def test_pictures_are_written(tmp_path):
    result = realistic().model_copy(update={"rankings": [], "sweeps": [], "cosines": None})
    paths = save_pictures(result, tmp_path / "out", palette="dark", scale=1.0)
    assert sorted(p.name for p in paths) == [
        "leaderboard.png", "merge-gains.png", "tasks.png", "transfer.png",
    ]  # fmt: skip
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)
