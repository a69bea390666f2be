import numpy as np
import pytest

from taskloom.errors import DataError
from taskloom.learn.mixtures.domains import Domain
from taskloom.learn.mixtures.doremi import doremi, reweigh
from taskloom.progress import silent

LETTERS = "abcdefghijklmnop"


def domain(name, alphabet, n, seed=0, length=14):
    """Texts whose every second letter follows from the one before."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(n + 10):
        firsts = random.integers(len(alphabet), size=length)
        texts.append("".join(alphabet[i] + alphabet[(i * 5 + 3) % len(alphabet)] for i in firsts))
    return Domain(name, tuple(texts[10:]), tuple(texts[:10]))


def constant(name, n):
    return Domain(name, ("zzzzzzzzzz",) * n, ("zzzzzzzzzz",))


SIZES = {"batch_size": 12, "hidden": 24, "max_bytes": 28, "learning_rate": 1e-2}


def test_the_cards_numbers():
    weights, excess = [0.5, 0.3, 0.2], [0.2, 0.0, 0.6]
    for smoothing, expected in (
        (0, [0.478934, 0.235271, 0.285795]),
        (1e-4, [0.478920, 0.235281, 0.285799]),
        (1e-3, [0.478789, 0.235369, 0.285842]),
    ):
        found = reweigh(weights, excess, step_size=1, smoothing=smoothing)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert found.sum() == pytest.approx(1)


def test_a_weight_of_zero_comes_back_by_smoothing_only():
    assert reweigh([1.0, 0.0], [0.0, 9.0], step_size=1, smoothing=0).tolist() == [1, 0]
    assert reweigh([1.0, 0.0], [0.0, 9.0], step_size=1, smoothing=0.5).tolist() == [0.75, 0.25]


def test_weights_are_the_mean_over_the_steps_and_repeatable():
    domains = [domain("words", LETTERS, 40), constant("same", 40)]
    found = doremi(domains, 0, silent, steps=12, **SIZES)
    assert found.meaning == "share to sample by"
    assert found.trace.shape == (12, 2)
    np.testing.assert_allclose(list(found.weights.values()), found.trace.mean(0))
    assert sum(found.weights.values()) == pytest.approx(1)
    np.testing.assert_array_equal(doremi(domains, 0, silent, steps=12, **SIZES).trace, found.trace)
    assert not np.array_equal(doremi(domains, 1, silent, steps=12, **SIZES).trace, found.trace)


def test_what_can_be_learnt_and_is_not_yet_weighs_more_than_what_is_known_at_once():
    domains = [domain("words", LETTERS, 60), constant("same", 60)]
    found = doremi(domains, 0, silent, steps=60, **SIZES)
    assert found.weights["words"] > 0.6
    assert found.measured["reference's loss"]["same"] < 0.3
    assert found.measured["share of the texts"] == {"words": 0.5, "same": 0.5}


def test_what_cannot_be_learnt_does_not_take_all():
    """Random bytes have the highest loss, but the reference does no better, so nothing is in excess."""
    random = np.random.default_rng(3)
    noise = ["".join(random.choice(list(LETTERS), 28)) for _ in range(70)]
    domains = [domain("words", LETTERS, 60), Domain("noise", tuple(noise[10:]), tuple(noise[:10]))]
    found = doremi(domains, 0, silent, steps=100, **SIZES)
    losses = found.measured["proxy's loss"]
    assert losses["noise"] > losses["words"]
    assert found.weights["words"] > found.weights["noise"]


def test_bad_domains_are_refused():
    with pytest.raises(DataError, match="two domains or more"):
        doremi([constant("a", 2)], 0, silent)
    with pytest.raises(DataError, match="names of their own"):
        doremi([constant("a", 2), constant("a", 2)], 0, silent)
    with pytest.raises(DataError, match="'b' has no text for validation"):
        doremi([constant("a", 2), Domain("b", ("x",), (" ",))], 0, silent)
