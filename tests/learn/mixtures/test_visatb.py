import numpy as np
import pytest

from taskloom.errors import DataError, NumericalError
from taskloom.learn.mixtures.domains import Domain
from taskloom.learn.mixtures.visatb import balance, visatb
from taskloom.progress import silent


def restated(mini, single, temperature):
    """Figure 2 of the paper, entry by entry."""
    n = len(mini)
    c = [[(single[i][j] - mini[j]) / (single[j][j] - mini[j]) for j in range(n)] for i in range(n)]
    outward = [np.mean([c[i][j] for j in range(n) if j != i]) for i in range(n)]
    inward = [np.mean([c[i][j] for i in range(n) if i != j]) for j in range(n)]
    difficulty = [1 - mini[i] / single[i][i] for i in range(n)]

    def soft(values):
        grown = [np.exp(value / temperature) for value in values]
        return [n * each / sum(grown) for each in grown]

    parts = zip(soft(outward), soft([-x for x in inward]), soft(difficulty), strict=True)
    return [((a + b) / 2 + d) / 2 for a, b, d in parts]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_weights_are_the_papers(temperature):
    random = np.random.default_rng(0)
    mini = random.uniform(0.2, 0.4, 5)
    single = mini + random.uniform(-0.05, 0.1, (5, 5)) + 0.4 * np.eye(5)
    found = balance(mini, single, temperature=temperature)
    np.testing.assert_allclose(found.weights, restated(mini, single, temperature))
    assert found.weights.mean() == pytest.approx(1)
    assert np.isnan(np.diag(found.contributions)).all()


def test_the_numbers_of_the_released_script():
    """Contributions and difficulties of its second benchmark lead to its weights at temperature 0.5."""
    out, into = np.array([0.7601, 0.3496, 1.6727]), np.array([1.2890, 0.9779, 0.5156])
    kept = np.array([0.8636, 0.3534, 0.9593])  # 1 - D
    # performances that have exactly these: three equations for outward and three for inward
    contributions = solve(out, into)
    own = np.ones(3)
    mini = kept * own
    single = mini + contributions * (own - mini)
    np.fill_diagonal(single, own)
    found = balance(mini, single, temperature=0.5)
    np.testing.assert_allclose(found.outward, out, atol=1e-4)
    np.testing.assert_allclose(found.inward, into, atol=1e-4)
    np.testing.assert_allclose(found.difficulty, 1 - kept)
    by = [3 * np.exp(x / 0.5) / np.exp(x / 0.5).sum() for x in (out, -into, 1 - kept)]
    np.testing.assert_allclose(found.weights, ((by[0] + by[1]) / 2 + by[2]) / 2, atol=1e-4)


def solve(out, into):
    """Return a 3 x 3 matrix with these means of rows and of columns outside the diagonal."""
    places = [(i, j) for i in range(3) for j in range(3) if i != j]
    rows = [[0.5 * (i == r) for i, _ in places] for r in range(3)]
    rows += [[0.5 * (j == c) for _, j in places] for c in range(3)]
    values, *_ = np.linalg.lstsq(np.array(rows), np.concatenate([out, into]), rcond=None)
    found = np.zeros((3, 3))
    for (i, j), value in zip(places, values, strict=True):
        found[i, j] = value
    return found


def test_who_gives_and_who_is_hard_weighs_more():
    mini = [0.5, 0.5, 0.1]
    single = [[1.0, 0.9, 0.4], [0.5, 1.0, 0.1], [0.5, 0.5, 1.0]]
    found = balance(mini, single)
    assert found.by_outward.argmax() == 0
    assert found.by_inward.argmax() == 0
    assert found.by_difficulty.argmax() == 2
    assert found.weights.argmin() == 1


def test_bad_performances_are_refused():
    with pytest.raises(DataError, match="of task 1 does no better"):
        balance([0.5, 0.5], [[0.9, 0.5], [0.5, 0.5]])
    with pytest.raises(DataError, match=r"found \(1,\)"):
        balance([0.5], [[0.9]])
    with pytest.raises(NumericalError, match="above 0"):
        balance([0.5, 0.0], [[0.9, 0.5], [0.5, 0.6]])
    with pytest.raises(NumericalError, match="finite"):
        balance([0.5, np.nan], [[0.9, 0.5], [0.5, 0.6]])


def test_it_measures_with_small_models():
    random = np.random.default_rng(0)

    def some(name, letters):
        texts = ["".join(random.choice(list(letters), 2)) * 6 for _ in range(40)]
        return Domain(name, tuple(texts[8:]), tuple(texts[:8]))

    domains = [some("a", "abcdef"), some("b", "abcdefgh"), some("z", "uvwxyz")]
    found = visatb(domains, 0, silent, mini=0.1, steps=40, batch_size=8, hidden=24, learning_rate=1e-2)
    assert found.meaning == "factor of the loss"
    assert np.mean(list(found.weights.values())) == pytest.approx(1)
    gives = found.measured["contribution to others"]
    assert gives["a"] > gives["z"]
    assert set(found.measured) >= {"difficulty", "contribution from others"}
