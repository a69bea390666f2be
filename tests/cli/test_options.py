"""How NAME=PATH and OPTION=VALUE words are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.cli.options import named, parsed
from taskloom.errors import PlanError


def test_unnamed_sources_leave_naming_to_the_library():
    assert named(["a", "org/model@v1"]) == (["a", "org/model@v1"], None)


def test_one_name_makes_the_others_take_their_folder():
    assert named(["x/spam", "n=y/news"]) == (["x/spam", "y/news"], ["spam", "n"])


def test_the_first_equals_sign_splits():
    assert named(["n=a=b"]) == (["a=b"], ["n"])


def test_a_path_that_exists_is_a_path_though_it_has_an_equals_sign(tmp_path):
    folder = tmp_path / "lr=3"
    folder.mkdir()
    assert named([str(folder)]) == ([str(folder)], None)


@pytest.mark.parametrize("word", ["=path", "name=", "="])
def test_half_a_name_is_refused(word):
    with pytest.raises(PlanError, match="neither a path nor NAME=PATH"):
        named([word])


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("x=1", 1),
        ("x=0.5", 0.5),
        ("x=true", True),
        ("x=[0.1, 2]", [0.1, 2]),
        ("x={a: 1}", {"a": 1}),
        ("x=", None),
        ("x=null", None),
        ("x=a=b", "a=b"),
        ("x='1'", "1"),
    ],
)
def test_values_are_yaml(word, value):
    assert parsed([word]) == {"x": value}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_written_by_python_reaches_the_method(number):
    """YAML 1.1 reads 1e-05 as text; the registry's schema turns such text into the number."""
    assert float(parsed([f"x={number!r}"])["x"]) == number


@pytest.mark.parametrize("word", ["density", "=1", ""])
def test_a_setting_needs_an_option_and_a_value(word):
    with pytest.raises(PlanError, match="is not OPTION=VALUE"):
        parsed([word])


def test_a_setting_given_twice_is_refused():
    with pytest.raises(PlanError, match="'x' twice"):
        parsed(["x=1", "x=2"])


@pytest.mark.parametrize("value", ["[1, 2", "{a", "'open", "@x"])
def test_a_value_that_is_not_yaml_is_refused_by_option(value):
    with pytest.raises(PlanError, match="--set scale: the value"):
        parsed([f"scale={value}"])


def test_yaml_builds_no_objects():
    with pytest.raises(PlanError, match="is not YAML"):
        parsed(["x=!!python/object/apply:os.getcwd []"])
