"""Runs of words that a source has seen, and what does not count as the same."""

import numpy as np
import pytest

from taskloom.choose.contamination import fingerprint, hashed, seen_by
from taskloom.errors import DataError

LONG = "one two three four five six seven eight nine ten eleven twelve"


def runs(text, n):
    tokens = text.casefold().replace(",", " ").replace(".", " ").split()
    return {" ".join(tokens[i : i + n]) for i in range(max(len(tokens) - n + 1, 1))}


def test_restated_by_sets():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(6)]
    source = [" ".join(rng.choice(words, rng.integers(3, 12))) for _ in range(30)]
    target = [" ".join(rng.choice(words, rng.integers(3, 12))) for _ in range(40)]
    known = set().union(*(runs(text, 3) for text in source))
    wanted = sum(len(runs(t, 3) & known) >= 0.5 * len(runs(t, 3)) for t in target)
    found = seen_by(target, fingerprint(source, 3), words=3)
    assert (found.count, found.of) == (wanted, 40)
    assert found.share == wanted / 40


def test_case_and_punctuation_do_not_count_but_words_do():
    source = fingerprint([LONG])
    assert seen_by([LONG.upper().replace(" ", ", ") + "!"], source).count == 1
    assert seen_by([LONG.replace("six", "6")], source).count == 0
    assert seen_by([LONG + " " + " ".join(f"new{i}" for i in range(20))], source).count == 0
    assert seen_by([LONG + " and one more"], source).count == 1


def test_short_texts_are_compared_whole():
    source = fingerprint(["ok then", ""])
    assert seen_by(["OK, then.", "ok", "", "then ok"], source).count == 2


def test_pictures_are_compared_by_their_bytes():
    pictures = np.random.default_rng(0).random((4, 3, 3)).astype(np.float32)
    other = pictures.copy()
    other[0, 0, 0] += 1e-3
    assert seen_by(pictures, fingerprint(other)).count == 3
    flat = pictures.reshape(4, 9)
    assert seen_by(flat, fingerprint(pictures)).count == 0


def test_each_run_is_held_once():
    assert len(hashed("a a a a a a", 2)) == 1
    assert len(fingerprint(["a b", "a b", "c d"], 2)) == 2
    assert seen_by(["a"], fingerprint([])).count == 0


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="one example or more"):
        seen_by([], fingerprint(["a"]))
    with pytest.raises(DataError, match="share in"):
        seen_by(["a"], fingerprint(["a"]), share=0.0)
