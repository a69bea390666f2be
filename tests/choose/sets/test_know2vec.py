"""Know2Vec: decisions as vectors, and retrieval of the model that knows a data set."""

import numpy as np
import pytest

from taskloom.choose.knowledge import boundary_probes, knowledge_vector
from taskloom.choose.sets import know2vec
from taskloom.errors import DataError, NumericalError


def softmax(logits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def test_vector_restated_and_blind_to_the_order_of_classes():
    rng = np.random.default_rng(0)
    answers = softmax(rng.normal(size=(5, 4)))
    found = knowledge_vector(answers)
    wanted = [
        sum(np.sqrt(p * q) for p, q in zip(answers[i], answers[j], strict=True))
        for i in range(5)
        for j in range(i + 1, 5)
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    np.testing.assert_allclose(knowledge_vector(answers[:, [2, 0, 3, 1]]), found, atol=1e-12)
    wider = np.column_stack([answers, np.zeros(5)])
    np.testing.assert_allclose(knowledge_vector(wider), found, atol=1e-12)


def test_probes_lie_near_the_borders():
    answers = [[[0.9, 0.1], [0.5, 0.5], [0.99, 0.01], [0.6, 0.4]]]
    assert boundary_probes(answers, 2).tolist() == [1, 3]
    assert boundary_probes(answers, 9).tolist() == [0, 1, 2, 3]
    assert boundary_probes([np.ones((3, 1))], 1).tolist() == [0]


def zoo(seed, models=12, width=6, probes=30):
    """Data sets that each ask for other borders; models and queries know them, noisily."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(probes, width))
    asked = rng.normal(size=(models, width, 3))

    def vectors(noise):
        return np.stack(
            [
                knowledge_vector(softmax(inputs @ (a + noise * rng.normal(size=a.shape)) * 2))
                for a in asked
            ]
        )

    return vectors(0.4), vectors(0.4), vectors(0.4)


@pytest.mark.parametrize("aligned", [True, False])
def test_held_out_queries_find_their_model(aligned):
    """Far above chance (1 in 12), and no worse than by the data sets' own vectors among each other."""
    hits, baseline = [], []
    for seed in range(5):
        models, queries, held_out = zoo(seed)
        for k, query in enumerate(held_out):
            hits.append(know2vec(models, queries, query, size=1, aligned=aligned).chosen[0] == k)
            shuffled = np.random.default_rng(seed + 100 * k).permutation(len(models))
            baseline.append(shuffled[0] == k)
    assert np.mean(hits) > 0.8
    assert np.mean(baseline) < 0.3


def test_ridge_restated_in_its_primal_form():
    models, queries, held_out = zoo(1, models=4, probes=5)
    found = know2vec(models, queries, held_out[2], size=4, penalty=0.3)
    x, y = queries - queries.mean(0), models - models.mean(0)
    strength = 0.3 * (x**2).sum() / 4
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
    wanted = (held_out[2] - queries.mean(0)) @ weights
    cosines = y @ wanted / np.linalg.norm(y, axis=1) / np.linalg.norm(wanted)
    assert found.chosen == tuple(np.argsort(-cosines))
    np.testing.assert_allclose(found.values, np.sort(cosines)[::-1], atol=1e-9)


def test_bad_input_is_refused():
    vectors = np.random.default_rng(0).random((3, 4))
    with pytest.raises(DataError, match="same probe inputs"):
        know2vec(vectors, vectors[:2], vectors[0], size=1)
    with pytest.raises(DataError, match="found 4 of 3"):
        know2vec(vectors, vectors, vectors[0], size=4)
    with pytest.raises(NumericalError, match="decide differently"):
        know2vec(np.ones((2, 4)), vectors[:2], vectors[0], size=1)
    with pytest.raises(DataError, match="two probe inputs"):
        knowledge_vector([[1.0]])
    with pytest.raises(DataError, match="sum to 1"):
        knowledge_vector([[0.3, 0.3], [0.5, 0.5]])
