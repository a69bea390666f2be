"""The few-shot curve: how labels are dealt, what intervals are, and a page of what is measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmark_scripts import load_benchmark
from taskloom.errors import IntegrityError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def curve():
    return load_benchmark("few_shot")


def rows_of(curve, value, *, draws=(0, 1, 2), methods=None, n=40, target="tweets_apple", count=4):
    """Return rows in which a method gets a share right that ``value`` says."""
    found = []
    for method in methods or curve.METHODS:
        for draw in draws:
            right = np.random.default_rng([draw, 5]).random(n) < value(method, draw)
            row = {"target": target, "count": count, "draw": draw, "method": method}
            row |= {"value": float(right.mean()), "n": n, "seconds": 1.0, "said": {}}
            found.append({**row, "right": np.packbits(right).tobytes().hex()})
    return found


def test_the_page_is_that_of_the_rows(curve):
    page = (ROOT / "docs" / "few_shot.md").read_text(encoding="utf-8")
    found = curve.read()
    assert page == curve.page(found), "run: python benchmarks/few_shot.py page"
    assert ("(img/few_shot.svg)" in page) == curve.PICTURE.is_file() == bool(found["rows"])


def test_the_rows_say_what_they_are_of(curve):
    found = curve.read()
    places = [curve.place(row) for row in found["rows"]]
    assert len(places) == len(set(places))
    for row in found["rows"]:
        assert row["n"] == found["targets"][row["target"]]["n"]
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))[: row["n"]]
        assert bits.mean() == pytest.approx(row["value"], abs=1e-6)


def test_more_labels_of_a_draw_contain_fewer(curve):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [70, 90, 64]))
    before: set[int] = set()
    for count in curve.COUNTS:
        rows = curve.dealt(labels, count, 1)
        assert np.bincount(labels[rows]).tolist() == [count] * 3
        assert before < set(rows.tolist())
        before = set(rows.tolist())
    assert set(curve.dealt(labels, 8, 0)) != set(curve.dealt(labels, 8, 1))
    with pytest.raises(SystemExit, match="class 2 has 64 training examples, expected 65"):
        curve.dealt(labels, 65, 0)


def test_intervals_are_those_of_the_pigeonhole_bootstrap(curve):
    """Again with loops: rows and columns drawn by number, the mean of what they cross in."""
    table = (np.random.default_rng(2).random((3, 60)) < np.array([[0.3], [0.5], [0.7]])).astype(float)
    value, low, high = curve.interval(table)
    rng = np.random.default_rng(9)
    means = [
        table[np.ix_(rng.integers(3, size=3), rng.integers(60, size=60))].mean() for _ in range(4000)
    ]
    assert value == table.mean()
    assert [low, high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)
    alone = curve.interval(table[:1])
    assert alone[2] - alone[1] < high - low


def test_a_lead_is_on_the_same_draws_and_examples(curve):
    rows = rows_of(curve, lambda name, draw: 0.4 if name == "fine-tune" else 0.4 + 0.2 * (draw + 1) / 3)
    points = {point["method"]: point for point in curve.points(rows)}
    assert "lead" not in points["fine-tune"]
    wanted = points["atlas"]["value"] - points["fine-tune"]["value"]
    assert points["atlas"]["lead"] == pytest.approx(wanted)
    assert points["atlas"]["lead_low"] >= 0  # it gets right whatever the fine-tune does
    fewer = [row for row in rows if row["method"] != "fine-tune" or row["draw"] < 2]
    assert all("lead" not in point for point in curve.points(fewer))


def test_what_is_not_measured_is_said(curve):
    empty = curve.page(curve.read(Path("nowhere.json")))
    cells = len(curve.TARGETS) * len(curve.COUNTS) * (2 * len(curve.METHODS) - 1)
    assert empty.count("| not measured yet") == cells
    assert empty.count("Not measured yet.") == len(curve.TARGETS)
    rows = rows_of(curve, lambda method, draw: 0.5, draws=(0,), methods=["base"])
    found = {**curve.read(Path("nowhere.json")), "rows": rows}
    page = curve.page(found)
    total = len(curve.TARGETS) * len(curve.COUNTS) * len(curve.METHODS) * len(curve.DRAWS)
    assert f"{total - 1} of the rows are not measured yet" in page
    assert "1 draw is few" in page
    rows += rows_of(curve, lambda method, draw: 0.5, draws=(0, 1), methods=["ties"])
    mixed = curve.page({**found, "rows": rows})
    assert mixed.count("1 of 3 draws") == 1
    assert "2 draws are few" in mixed
    assert "No number of labels has been measured with every method yet." in page
    assert page.count("Not measured yet.") == 1


def test_two_draws_of_everything_are_said_once(curve):
    rows = [
        row
        for target in curve.TARGETS
        for count in curve.COUNTS
        for row in rows_of(curve, lambda *_: 0.5, draws=(0, 1), target=target, count=count)
    ]
    page = curve.page({**curve.read(Path("nowhere.json")), "rows": rows})
    assert "Of 3 draws 2 are measured." in page
    assert "of 3 draws)" not in page


def test_the_sentence_names_who_leads(curve):
    shares = {"atlas": 0.9, "fine-tune": 0.3}
    rows = rows_of(curve, lambda method, draw: shares.get(method, 0.5), n=200)
    page = curve.page({**curve.read(Path("nowhere.json")), "rows": rows})
    assert "Highest: aTLAS with 4 (" in page
    assert "Beyond chance the fine-tune is beaten by base with 4;" in page


def test_the_picture_has_a_panel_for_every_target(curve):
    rows = rows_of(curve, lambda method, draw: 0.5)
    rows += rows_of(curve, lambda method, draw: 0.6, target="editorial_sentiment")
    spec = curve.chart(curve.points(rows))
    above, below = (row["hconcat"] for row in spec["vconcat"])
    assert [panel["title"]["text"] for panel in above] == list(curve.TARGETS.values())
    assert len(below) == 2
    assert {curve.METHODS[name][0] for name in curve.LOOKS} == {n for n, _ in curve.METHODS.values()}
    assert len(set(curve.LOOKS.values())) == len(curve.LOOKS)


def test_rows_are_added_one_by_one_and_of_one_measurement_alone(curve, tmp_path):
    path = tmp_path / "few.json"
    (first, second, *_) = rows_of(curve, lambda method, draw: 0.5)
    curve.put(path, {**curve.read(path), "targets": {"tweets_apple": {"digest": "a"}}})
    curve.add(path, first)
    curve.add(path, second)
    assert curve.read(path)["rows"] == [first, second]
    assert json.loads(path.read_text().splitlines()[-2]) == second

    class Stage:
        class stored:  # noqa: N801
            experts = ()

    class On:
        labels = np.zeros(3)

        class bench:  # noqa: N801
            class ground:  # noqa: N801
                class data:  # noqa: N801
                    digest = "b"

                class examples:  # noqa: N801
                    labels = np.array([0, 1])

    with pytest.raises(IntegrityError, match="the data of 'tweets_apple' or an expert changed"):
        curve.enter(path, Stage, "tweets_apple", On)
