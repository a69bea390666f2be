from hypothesis import given
from hypothesis import strategies as st

from taskloom.evaluation.duplicates import near_duplicates, shingles

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=0, max_size=7).map(" ".join)


def jaccard(a, b):
    return len(a & b) / len(a | b)


def by_hand(candidates, held_out, threshold):
    return [
        i
        for i, text in enumerate(candidates)
        if any(jaccard(shingles(text), shingles(o)) >= threshold - 1e-9 for o in held_out)
    ]


@given(
    st.lists(WORDS, max_size=12),
    st.lists(WORDS, max_size=12),
    st.sampled_from([0.1, 0.3, 0.5, 2 / 3, 0.8, 0.9, 1.0]),
)
def test_it_finds_exactly_what_comparing_all_pairs_finds(candidates, held_out, threshold):
    assert near_duplicates(candidates, held_out, threshold) == by_hand(candidates, held_out, threshold)


def test_case_punctuation_spaces_and_numbers_do_not_matter():
    assert shingles("Call 555-123 NOW!") == shingles("call  9 77 now")


def test_unicode_forms_do_not_matter():
    assert shingles("\ufb01ne \uff57ords") == shingles("fine words")


def test_short_and_wordless_texts_are_compared_whole():
    assert shingles("Hi!") == shingles("hi")
    assert shingles("!!!") != shingles("???")
    assert near_duplicates(["!!!", "ok"], ["???", "OK."], 0.8) == [1]


def test_nothing_to_compare():
    assert near_duplicates([], ["a"], 0.8) == []
    assert near_duplicates(["a"], [], 0.8) == []


def test_threshold_is_inclusive():
    # nine shared pairs of eleven words each, union 11: similarity 9 / 11
    a = " ".join(f"w{chr(97 + i)}" for i in range(11))
    b = a.rsplit(" ", 1)[0] + " other"
    assert near_duplicates([a], [b], 9 / 11) == [0]
    assert near_duplicates([a], [b], 9 / 11 + 0.01) == []


def test_many_texts_are_quick():
    texts = [
        f"common words appear here {i:04d}x tail {i * 7:05d}y end".replace("0", "z") for i in range(3000)
    ]
    assert near_duplicates(texts, texts[:50], 1.0)[:50] == list(range(50))
