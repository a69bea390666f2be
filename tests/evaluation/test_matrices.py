import pytest

from taskloom.errors import PlanError
from taskloom.evaluation.matrices import score_matrix, transfer_matrix
from taskloom.evaluation.score import Score


def scored(model, task, value, split="test"):
    return Score(model, task, split, "accuracy", value, 0.0, 1.0, "wilson", 10, 0)


SCORES = [
    scored("base", "spam", 0.5),
    scored("base", "news", 0.6),
    scored("e:news", "news", 0.9),
    scored("e:news", "spam", 0.4),
    scored("e:spam", "spam", 0.8),
    scored("e:spam", "spam", 0.1, split="validation"),
]


def test_scores_in_order_of_appearance_with_gaps():
    grid = score_matrix(SCORES)
    assert grid.rows == ("base", "e:news", "e:spam")
    assert grid.columns == ("spam", "news")
    assert grid.values == ((0.5, 0.6), (0.4, 0.9), (0.8, None))


def test_transfer_is_the_difference_to_the_base():
    grid = transfer_matrix(SCORES)
    assert grid.rows == ("e:news", "e:spam")
    assert grid.values[0] == pytest.approx((-0.1, 0.3))
    assert grid.values[1] == (pytest.approx(0.3), None)


def test_no_base_value_no_difference():
    grid = transfer_matrix([scored("base", "a", 0.5), scored("e", "b", 0.7)])
    assert grid.values == ((None, None),)


def test_the_split_is_chosen():
    assert score_matrix(SCORES, split="validation").values == ((0.1,),)
    assert score_matrix([]).values == ()


def test_two_scores_for_one_cell():
    with pytest.raises(PlanError, match="'base' has two test scores on task 'spam'"):
        score_matrix([SCORES[0], SCORES[0]])


def test_no_base():
    with pytest.raises(PlanError, match="no test score of the base 'zero'"):
        transfer_matrix(SCORES, base="zero")
