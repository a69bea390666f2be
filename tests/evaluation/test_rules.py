import pytest
from pydantic import TypeAdapter, ValidationError

from taskloom.errors import DataError
from taskloom.evaluation.rules import Rule, apply_rules

ADAPTER = TypeAdapter(list[Rule])


def apply(rows, *rules):
    return apply_rules(ADAPTER.validate_python(list(rules)), rows)


def column(rows, name="t"):
    return [row[name] for row in rows]


def texts(*values):
    return [{"t": value} for value in values]


def test_no_rules_change_nothing():
    rows = texts("a", "b")
    assert apply(rows) == rows


def test_rules_leave_their_input_alone():
    rows = texts("a1")
    apply(rows, {"rule": "replace", "column": "t", "pattern": "1"})
    assert rows == texts("a1")


def test_rules_run_in_order():
    made = apply(
        texts("ab"),
        {"rule": "replace", "column": "t", "pattern": "a", "by": "b"},
        {"rule": "replace", "column": "t", "pattern": "b", "by": "c"},
    )
    assert column(made) == ["cc"]


def test_replace_refers_to_groups():
    made = apply(
        texts("x-y"), {"rule": "replace", "column": "t", "pattern": r"(\w)-(\w)", "by": r"\2\1"}
    )
    assert column(made) == ["yx"]


def test_extract_sets_columns():
    made = apply(texts("a:b"), {"rule": "extract", "column": "t", "pattern": "(?P<x>.):(?P<y>.)"})
    assert made == [{"t": "a:b", "x": "a", "y": "b"}]


def test_extract_refuses_what_does_not_match():
    with pytest.raises(DataError, match=r"'nope'.*does not match.*unmatched: drop"):
        apply(texts("nope"), {"rule": "extract", "column": "t", "pattern": "(?P<x>:)"})


def test_extract_drops_when_told():
    rule = {"rule": "extract", "column": "t", "pattern": "(?P<x>:)", "unmatched": "drop"}
    assert column(apply(texts("nope", "a:"), rule)) == ["a:"]


def test_split_between_and_matches():
    between = {"rule": "split", "column": "t", "pattern": r"\s*;\s*"}
    assert column(apply(texts("a; b;  ;c"), between)) == ["a", "b", "c"]
    matches = {"rule": "split", "column": "t", "pattern": r"\d+", "pieces": "matches"}
    assert column(apply(texts("1 and 22"), matches)) == ["1", "22"]


def test_split_copies_other_columns_and_respects_where():
    rows = [{"t": "a b", "k": "plot"}, {"t": "c d", "k": "review"}]
    made = apply(rows, {"rule": "split", "column": "t", "pattern": " ", "where": {"k": "plot"}})
    assert made == [{"t": "a", "k": "plot"}, {"t": "b", "k": "plot"}, {"t": "c d", "k": "review"}]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ({"values": ["cat"]}, ["cat"]),
        ({"matches": "^c"}, ["cat", "cow"]),
        ({"matches": "^C"}, []),
        ({"matches": "^C", "ignore_case": True}, ["cat", "cow"]),
        ({"min_length": 4}, ["horse"]),
        ({"max_length": 3}, ["cat", "cow"]),
        ({"matches": "^c", "values": ["cow", "horse"]}, ["cow"]),
    ],
)
def test_keep_and_drop_are_opposites(condition, kept):
    rows = texts("cat", "cow", "horse")
    assert column(apply(rows, {"rule": "keep", "column": "t", **condition})) == kept
    dropped = column(apply(rows, {"rule": "drop", "column": "t", **condition}))
    assert dropped == [value for value in column(rows) if value not in kept]


def test_a_missing_value_satisfies_nothing():
    assert apply(texts(None), {"rule": "keep", "column": "t"}) == []
    assert apply(texts(None), {"rule": "drop", "column": "t", "matches": ""}) == texts(None)


def test_threshold_names_both_ends_and_drops_the_middle():
    rule = {"rule": "threshold", "column": "t", "below": -0.5, "above": 0.5, "into": "y"}
    made = apply(texts("-0.6", "-0.5", "0", "0.5", "0.51"), {**rule, "names": ["neg", "pos"]})
    assert made == [{"t": "-0.6", "y": "neg"}, {"t": "0.51", "y": "pos"}]


def test_threshold_refuses_words():
    rule = {"rule": "threshold", "column": "t", "below": 0, "above": 0, "into": "y", "names": ["a", "b"]}
    with pytest.raises(DataError, match="'good', not a number"):
        apply(texts("good"), rule)


def test_threshold_refuses_crossed_ends():
    rule = {"rule": "threshold", "column": "t", "below": 1, "above": 0, "into": "y", "names": ["a", "b"]}
    with pytest.raises(ValidationError, match="must not exceed"):
        apply([], rule)


def test_top_keeps_the_most_frequent_and_breaks_ties_by_name():
    rows = texts("b", "a", "c", "c", "b", "a", "d")
    assert column(apply(rows, {"rule": "top", "column": "t", "k": 2})) == ["b", "a", "b", "a"]


def test_limit_keeps_so_many_of_each_in_their_order():
    rows = [{"k": "x", "i": i} for i in range(10)] + [{"k": "y", "i": i} for i in range(2)]
    made = apply(rows, {"rule": "limit", "column": "k", "at_most": 4})
    x = [row["i"] for row in made if row["k"] == "x"]
    assert len(x) == 4
    assert x == sorted(x)
    assert [row["i"] for row in made if row["k"] == "y"] == [0, 1]


def test_limit_chooses_by_content_not_by_order():
    rows = [{"k": "x", "i": i} for i in range(50)]
    rule = {"rule": "limit", "column": "k", "at_most": 7}
    forward = {row["i"] for row in apply(rows, rule)}
    assert {row["i"] for row in apply(rows[::-1], rule)} == forward
    assert forward != set(range(7))


def test_limit_smallest_balances():
    rows = [{"k": "x", "i": i} for i in range(9)] + [{"k": "y", "i": i} for i in range(3)]
    made = apply(rows, {"rule": "limit", "column": "k", "at_most": "smallest"})
    assert [row["k"] for row in made] == ["x"] * 3 + ["y"] * 3
    assert apply([], {"rule": "limit", "column": "k", "at_most": "smallest"}) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "replace", "column": "q", "pattern": "x"},
        {"rule": "keep", "column": "q"},
        {"rule": "top", "column": "q", "k": 2},
        {"rule": "limit", "column": "q", "at_most": 2},
        {"rule": "split", "column": "q", "pattern": "x"},
    ],
)
def test_a_missing_column_is_named(rule):
    with pytest.raises(DataError, match="no column 'q'"):
        apply(texts("a"), rule)


@pytest.mark.parametrize("key", ["pattern", "matches"])
def test_a_broken_pattern_is_refused_when_read(key):
    rule = {"rule": "replace" if key == "pattern" else "keep", "column": "t", key: "("}
    with pytest.raises(ValidationError, match="not a regular expression"):
        ADAPTER.validate_python([rule])


def test_an_unknown_rule_lists_the_known():
    with pytest.raises(ValidationError, match="'replace', 'extract', 'split'"):
        ADAPTER.validate_python([{"rule": "rplace", "column": "t"}])


def test_an_unknown_option_offers_the_nearest():
    with pytest.raises(ValidationError, match="did you mean 'pattern'"):
        ADAPTER.validate_python([{"rule": "replace", "column": "t", "patern": "x"}])
