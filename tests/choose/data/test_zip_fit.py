import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.choose.data import zip_fit as module
from taskloom.choose.data.zip_fit import alignment, zip_fit
from taskloom.errors import DataError, PlanError
from taskloom.registry import get

ADD, SUB, CAT = (
    "def add(a,b): return a+b\n" * 4,
    "def sub(a,b): return a-b\n" * 4,
    "The cat sat on the mat. " * 4,
)


def restated(texts, target, compress):
    """The paper's rule, text by text."""
    found = []
    for s in texts:
        each = []
        for t in target:
            a, b, c = (len(compress(x.encode())) for x in (s, t, s + t))
            each.append(1 - (c - min(a, b)) / max(a, b))
        found.append(np.mean(each))
    return np.array(found)


def test_the_cards_numbers():
    assert alignment(100, 120, 150) == pytest.approx(0.583333, abs=1e-6)
    near, far = zip_fit(compressor="zlib").fit([SUB], None, 0)([ADD, CAT])
    assert near == pytest.approx(0.777778, abs=0.06)
    near_cat = zip_fit(compressor="zlib").fit([CAT], None, 0)([ADD])[0]
    assert near_cat == pytest.approx(0.222222, abs=0.06)
    assert near > far


@pytest.mark.parametrize(
    ("options", "compress"),
    [
        ({}, lambda data: gzip.compress(data, 9)),
        ({"level": 6}, lambda data: gzip.compress(data, 6)),
        ({"compressor": "zlib"}, lambda data: zlib.compress(data, 9)),
        ({"compressor": "deflate"}, lambda data: zlib.compress(data, 9, -15)),
    ],
)
def test_scores_are_the_papers(options, compress):
    texts = [ADD, SUB, CAT, "x", "a long one " * 200]
    target = [CAT, "what is a cat?", "y" * 900]
    scores = zip_fit(**options).fit(target, None, 0)(texts)
    np.testing.assert_allclose(scores, restated(texts, target, compress), rtol=0, atol=1e-12)


@given(st.lists(st.sampled_from(["the ", "cat ", "é", "\n", "0123", "zzzzzz", "a"]), max_size=220))
def test_the_small_window_finds_what_the_large_one_does(words):
    data = "".join(words).encode()[:700]
    assert module._deflated(18, 9, data) == len(gzip.compress(data, 9))


def test_random_bytes_do_not_compress_in_either_window():
    for size in (1, 100, 699, 700, 701, 5000):
        data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
        assert module._deflated(18, 9, data) == len(gzip.compress(data, 9))


def test_blank_texts_score_nothing_and_a_blank_target_is_refused():
    scorer = zip_fit().fit([CAT], None, 0)
    assert scorer(["", "  \n"]).tolist() == [0.0, 0.0]
    with pytest.raises(DataError, match="target example 1 is blank"):
        zip_fit().fit([CAT, " "], None, 0)


def test_the_order_of_concatenation_is_that_of_the_paper():
    first = zip_fit().fit(["abcdefgh" * 20], None, 0)(["xyz" * 7])[0]
    assert first == pytest.approx(restated(["xyz" * 7], ["abcdefgh" * 20], gzip.compress)[0])


def test_lz4_is_asked_for_by_name(monkeypatch):
    class Frames:
        @staticmethod
        def compress(data, compression_level):
            assert compression_level == 0
            return b"x" * (len(set(data)) + 15)

    monkeypatch.setattr(module, "import_module", lambda name: Frames)
    assert zip_fit(compressor="lz4", level=1).fit(["ab"], None, 0)(["ab"]).tolist() == [1.0]

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(PlanError, match="pip install lz4"):
        zip_fit(compressor="lz4")


def test_options_are_checked():
    entry = get("selector", "zip_fit")
    with pytest.raises(PlanError, match="level"):
        entry.validate({"level": 0})
    assert entry.function().sees == "text"
    assert entry.function().needs_target
