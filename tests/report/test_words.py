import math

import pytest

from taskloom.runs.report import words


@pytest.mark.parametrize(("n", "decimals"), [(1, 0), (99, 0), (100, 1), (100_000, 1), (None, 1)])
def test_no_more_decimals_than_one_example_is_worth(n, decimals):
    assert words.places(n) == decimals


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_a_dash(bad):
    assert words.decimal(bad) == words.points(bad, 300) == words.significant(bad) == "\N{EN DASH}"


def test_a_negative_number_that_rounds_to_zero_has_no_sign():
    assert words.points(-0.0001, 500, signed=True) == "0.0"


def test_signs_are_true_minus_signs():
    assert words.points(-0.05, 500) == "\N{MINUS SIGN}5.0"
    assert words.interval(-0.05, 0.02, 64, signed=True) == "\N{MINUS SIGN}5 to +2"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (9.94, "9.9 s"),
        (59.6, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (math.nan, "\N{EN DASH}"),
    ],
)
def test_duration(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1e-12, "0.00000000"), (0.00123456, "0.00123"), (98765.4, "98,765")]
)
def test_three_significant_digits(value, text):
    assert words.significant(value) == text
