"""Signs of task vectors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.choose.task_vectors import cosine_matrix, sign_agreement_matrix
from taskloom.errors import PlanError
from taskloom.store.pool import open_pool


def pool_of(*changes, base=None):
    start = torch.zeros(len(changes[0])) if base is None else base
    experts = [{"w": start + torch.tensor(each)} for each in changes]
    return open_pool({"w": start}, experts)


def test_by_hand():
    found = sign_agreement_matrix(pool_of([1.0, -2.0, 3.0, 0.0], [5.0, 1.0, 0.0, 1.0]))
    np.testing.assert_allclose(found, [[1.0, 0.5], [0.5, 1.0]])
    opposite = sign_agreement_matrix(pool_of([1.0, -1.0], [-2.0, 3.0], [0.1, -0.1]))
    np.testing.assert_allclose(opposite, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])


def test_nothing_in_common():
    found = sign_agreement_matrix(pool_of([1.0, 0.0], [0.0, 1.0], [0.0, 0.0]))
    np.testing.assert_allclose(found, np.eye(3))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), elements=st.integers(1, 40))
def test_equals_the_loop_whatever_the_slices(seed, elements):
    rng = np.random.default_rng(seed)
    changes = rng.integers(-1, 2, size=(3, 6, 4)).astype(np.float32)
    base = {"a": torch.ones(6, 4), "b": torch.zeros(())}
    experts = [{"a": base["a"] + torch.tensor(c), "b": torch.tensor(float(c[0, 0]))} for c in changes]
    found = sign_agreement_matrix(open_pool(base, experts), slice_elements=elements)
    flat = [[*c.ravel().tolist(), float(c[0, 0])] for c in changes]
    for i, first in enumerate(flat):
        for j, second in enumerate(flat):
            both = [(x, y) for x, y in zip(first, second, strict=True) if x and y]
            wanted = sum(x == y for x, y in both) / len(both) if both else float(i == j)
            assert found[i, j] == pytest.approx(1.0 if i == j else wanted)


def test_lengths_of_changes_do_not_matter():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 50)).tolist()
    scaled = sign_agreement_matrix(pool_of(one, [9 * x for x in two]))
    np.testing.assert_allclose(scaled, sign_agreement_matrix(pool_of(one, two)))
    cosines = cosine_matrix(pool_of(one, two))
    assert (cosines[0, 1] > 0) == (scaled[0, 1] > 0.5)


def test_without_a_base():
    with pytest.raises(PlanError, match="need the base"):
        sign_agreement_matrix(open_pool(None, [{"w": torch.ones(2)}, {"w": torch.ones(2)}]))
