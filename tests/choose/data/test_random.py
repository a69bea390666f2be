import numpy as np

from taskloom.choose.data.random import random


def test_every_text_has_a_draw_of_its_own_and_the_seed_changes_it():
    texts = [str(n) for n in range(2000)]
    scores = random().fit(None, None, 0)(texts)
    assert len(set(scores.tolist())) == 2000
    assert abs(scores.mean() - 0.5) < 0.02
    other = random().fit(None, None, 1)(texts)
    assert abs(np.corrcoef(scores, other)[0, 1]) < 0.06
    assert not random().needs_target
