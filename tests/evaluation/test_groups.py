"""Splits by group: whatever the groups are, none is on two sides, in no subset and in no order."""

import numpy as np
import yaml
from hypothesis import given
from hypothesis import strategies as st

from taskloom.evaluation.examples import build_examples, content_keys
from taskloom.evaluation.splitting import split_examples
from taskloom.evaluation.task import get_task, parse_task, task_names

from .conftest import annotation

GROUPED = [name for name in task_names() if get_task(name).split.group]


def pictures(groups, seed):
    """One picture of two by two bytes a row; few values, so that some pictures are equal."""
    drawn = np.random.default_rng(seed)
    return [
        {"image": drawn.integers(0, 4, (2, 2), dtype=np.uint8), "label": str(i % 2), "group": group}
        for i, group in enumerate(groups)
    ]


def sides(task, rows):
    parts = split_examples(task, rows, build_examples(task, rows))
    return [{rows[i]["group"] for i in each} for each in (parts.train, parts.validation, parts.test)]


def toy(split, subset=None):
    changes = {
        "modality": "image",
        "columns": {"inputs": "image", "label": "label"},
        "labels": ["0", "1"],
        "split": split,
        "subset": subset,
    }
    return parse_task(yaml.safe_dump(annotation(**changes)).encode(), where="toy")


GROUPS = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=60)


@given(GROUPS, st.integers(0, 5), st.integers(0, 3))
def test_no_group_is_on_two_sides(groups, seed, split_seed):
    task = toy({"group": "group", "seed": split_seed, "test": 0.4, "validation": 0.3})
    train, validation, test = sides(task, pictures(groups, seed))
    assert not train & validation
    assert not (train | validation) & test


@given(GROUPS, st.integers(0, 5))
def test_subsets_share_no_group_and_leave_the_test_side_alone(groups, seed):
    rows = pictures(groups, seed)
    split = {"group": "group", "test": 0.4, "validation": 0.3}
    first, second = (sides(toy(split, {"parts": 2, "part": part}), rows) for part in (0, 1))
    assert first[2] == second[2]
    learned = [train | validation for train, validation, _ in (first, second)]
    assert not learned[0] & learned[1]
    assert not (learned[0] | learned[1]) & first[2]


@given(GROUPS, st.integers(0, 5))
def test_the_side_of_a_group_depends_on_its_name_alone(groups, seed):
    task = toy({"group": "group", "test": 0.4, "validation": 0.3})
    whole, some = pictures(groups, seed), pictures(groups[::2], seed + 1)
    for side, other in ((0, 1), (0, 2), (1, 2)):
        assert not sides(task, whole)[side] & sides(task, some)[other]
        assert not sides(task, some)[side] & sides(task, whole)[other]


def test_pictures_of_bytes_stay_bytes_and_equal_ones_share_a_key():
    task = toy({"group": "group"})
    rows = pictures(["a", "b"], 0)
    rows.append({**rows[0], "group": "c"})
    examples = build_examples(task, rows)
    assert examples.inputs.dtype == np.uint8
    keys = content_keys(examples)
    assert keys[0] == keys[2] != keys[1]
    assert build_examples(
        task, [{**row, "image": row["image"].tolist()} for row in rows]
    ).inputs.dtype == (np.float32)


def test_tasks_on_the_same_groups_split_them_alike():
    families = {name.split("_")[0] for name in GROUPED}
    assert families == {"emoji", "glyph", "icon", "openclipart", "subjectivity"}
    for family in ("emoji", "glyph", "icon"):
        splits = [get_task(name).split for name in GROUPED if name.startswith(family)]
        assert len(splits) >= 2
        assert all(split == splits[0] for split in splits)
