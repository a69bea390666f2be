import numpy as np
import pytest

from taskloom.choose.data.mona import mona
from taskloom.errors import DataError, NumericalError


def test_the_cards_number():
    assert mona().fit([[0.4, 0.1, 0, 0]], None, 0)([[0.5, 0, 0.2, 0]]).tolist() == pytest.approx([0.5])


def test_it_is_the_generalised_jaccard_similarity_with_the_mean_code():
    random = np.random.default_rng(0)
    pool, target = (np.maximum(random.normal(size=(n, 8)), 0) for n in (6, 3))
    scores = mona().fit(target, None, 0)(pool)
    prototype = [sum(row[i] for row in target) / 3 for i in range(8)]
    for code, score in zip(pool, scores, strict=True):
        least = sum(min(a, b) for a, b in zip(code, prototype, strict=True))
        most = sum(max(a, b) for a, b in zip(code, prototype, strict=True))
        assert score == pytest.approx(least / most)


def test_bounds():
    scorer = mona().fit([[1.0, 0.0, 2.0]], None, 0)
    assert scorer([[1.0, 0.0, 2.0], [0, 3.0, 0], [0, 0, 0]]).tolist() == [1.0, 0.0, 0.0]


def test_what_is_no_code_is_refused():
    scorer = mona().fit([[1.0, 2.0]], None, 0)
    with pytest.raises(DataError, match="at least 0, found -1"):
        scorer([[-1.0, 0.0]])
    with pytest.raises(DataError, match="no unit is active"):
        mona().fit([[0.0, 0.0]], None, 0)
    with pytest.raises(NumericalError, match="NaN"):
        scorer([[np.nan, 0.0]])
    with pytest.raises(DataError, match="3 columns"):
        scorer([[1.0, 1.0, 1.0]])
