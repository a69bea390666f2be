"""Patterns of strangers: matched as `re` matches them, or refused before they can take for ever."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.store.patterns import compiled

NAME = "model.layers.10.self_attn.q_proj"


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("q_proj", True),
        ("proj", False),
        ("model.layers.10.self_attn.q_proj", True),
        (r"layers\.\d+\.self_attn\.[qk]_proj", True),
        (r"layers\.(?:9|10|11)\..*", True),
        (r".*\.(q|k)_proj", True),
        (r"(?P<kind>self_attn)\.q_proj", True),
        (r"self_attn\.(q_)?proj", True),
        (r"[]a-z_^\]]+", True),
        (r"layers\.1{2,3}.*", False),
        (r"layers\.1{1,2}0.*", True),
        ("a{}", False),
    ],
)
def test_what_is_matched(pattern, matches):
    assert bool(compiled(pattern).match(NAME)) == matches
    assert bool(re.match(rf"(.*\.)?({pattern})$", NAME)) == matches


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a+)+$", "repeats a group"),
        ("(a|a)*", "repeats a group"),
        ("((a|b))*", "repeats a group"),
        ("(a?){30}", "repeats a group"),
        (r"((.|\w)*)*!", "repeats a group"),
        ("(?:a*b)*", "repeats a group"),
        ("(a+)?+", "repeats a group|no regular expression"),
        (".*.*.*.*.*", "5 repetitions"),
        (r"(a)\1", "refers back"),
        ("(?=a)b", "looks around"),
        ("(?i)b", "sets flags|no regular expression"),
        ("(", "no regular expression"),
        ("[", "no regular expression"),
        ("*", "no regular expression"),
        ("a\\", "no regular expression"),
        ("(" * 500, "no regular expression"),
        ("a)(b", "no regular expression"),
        ("[[a]", "no regular expression: Possible nested set"),
        ("a{99999999999}", "no regular expression"),
    ],
)
def test_what_is_refused(pattern, why):
    with pytest.raises(ValueError, match=why):
        compiled(pattern)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*"ab.*+?()|[]^\\{}1,", "(?:", r"\d", ".*", "(a", ")+"]), max_size=14))
def test_what_is_accepted_is_quick(parts):
    pattern = "".join(parts)
    try:
        found = compiled(pattern)
    except ValueError:
        return
    begun = time.process_time()
    found.match("a" * 60 + ".b!")
    assert time.process_time() - begun < 2
