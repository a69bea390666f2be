import re
from hashlib import sha256

import numpy as np
import pytest

from taskloom.choose.data.dsir import bucket, count_ngrams, dsir, log_ratio
from taskloom.choose.keyed import digests, gumbel
from taskloom.errors import DataError

POOL = ["How far is the moon?", "BUY now, buy it!!", "who was king", "the the the"]
TARGET = ["how old is the king?", "how far?"]


def restated(text, buckets, n):
    """Counts as the released package makes them: word-punct tokens, lower case, SHA-256 modulo."""
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    counts = np.zeros(buckets, dtype=int)
    for size in range(1, n + 1):
        for start in range(len(words) - size + 1):
            run = " ".join(words[start : start + size])
            counts[int(sha256(run.encode()).hexdigest(), 16) % buckets] += 1
    return counts


def test_the_cards_numbers():
    ratio = log_ratio(np.array([5, 3, 2]), np.array([2, 3, 5]))
    weights = np.array([[3, 1, 0], [0, 1, 3]]) @ ratio
    np.testing.assert_allclose(weights, [2.748872, -2.748872], atol=1e-6)
    assert (weights + np.array([0.1, 2.9])).argmax() == 0


@pytest.mark.parametrize(("buckets", "n"), [(10_000, 2), (37, 1), (500, 3)])
def test_counts_and_weights_are_the_packages(buckets, n):
    np.testing.assert_array_equal(
        count_ngrams(POOL, buckets=buckets, ngrams=n), sum(restated(t, buckets, n) for t in POOL)
    )
    rule = dsir(buckets=buckets, ngrams=n, draw=False)
    scores = rule.fit(TARGET, rule.count(POOL), 0)(POOL)
    share = [sum(restated(t, buckets, n) for t in texts) for texts in (TARGET, POOL)]
    p, q = (counts / counts.sum() for counts in share)
    expected = [restated(t, buckets, n) @ (np.log(p + 1e-8) - np.log(q + 1e-8)) for t in POOL]
    np.testing.assert_allclose(scores, expected, atol=1e-9)


def test_a_bucket_is_not_pythons_hash():
    assert bucket("the moon", 10_000) == int(sha256(b"the moon").hexdigest(), 16) % 10_000


def test_the_draw_is_a_gumbel_of_the_text_and_the_seed():
    rule = dsir()
    counted = rule.count(POOL)
    bare = dsir(draw=False).fit(TARGET, counted, 0)(POOL)
    for seed in (0, 5):
        drawn = rule.fit(TARGET, counted, seed)(POOL) - bare
        np.testing.assert_allclose(drawn, gumbel(digests(POOL), seed), atol=1e-9)
    turned = rule.fit(TARGET, counted, 0)(POOL[::-1])[::-1]
    np.testing.assert_allclose(turned - bare, gumbel(digests(POOL), 0), atol=1e-9)


def test_gumbel_top_k_samples_in_proportion_to_the_weights():
    logs = np.log([0.6, 0.3, 0.1])
    keys = digests(["a", "b", "c"])
    first = [int((logs + gumbel(keys, seed)).argmax()) for seed in range(4000)]
    shares = np.bincount(first) / len(first)
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.03)


def test_blank_and_short_texts_are_never_chosen():
    rule = dsir(min_tokens=3)
    scores = rule.fit(TARGET, rule.count(POOL), 0)(["", "two words", "one two three"])
    assert np.isneginf(scores).tolist() == [True, True, False]


def test_texts_without_words_are_refused():
    rule = dsir()
    with pytest.raises(DataError, match="of the target holds a word"):
        rule.fit([" "], rule.count(POOL), 0)
    with pytest.raises(DataError, match="of the pool holds a word"):
        rule.fit(TARGET, rule.count([""]), 0)
