"""FUTE: data sets and models in one space (card B3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskloom.choose.task_embedding import distances, task2vec
from taskloom.errors import DataError
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.runs.unified import answers_of, dataset_embedding, model_embedding
from tiny_models import texts, tiny_bert

N = 48


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory):
    return str(tiny_bert(tmp_path_factory.mktemp("surrogate"), layers=1))


@pytest.fixture(scope="module")
def inputs():
    found, _ = texts(N, seed=3)
    return found


@pytest.fixture(scope="module")
def tasks(inputs):
    """Two tasks that inputs decide, and one that is drawn."""
    length = np.array([len(text) for text in inputs])
    return {
        "length": (length > np.median(length)).astype(int),
        "drawn": np.random.default_rng(0).permutation(np.arange(N) % 2),
    }


def test_an_oracle_of_a_data_set_is_embedded_where_the_data_set_is(surrogate, inputs, tasks):
    known = dict(zip(inputs, tasks["length"].tolist(), strict=True))
    data = dataset_embedding(surrogate, inputs, tasks["length"], examples=12)
    model = model_embedding(
        surrogate, inputs, lambda asked: [known[text] for text in asked], examples=12
    )
    np.testing.assert_array_equal(task2vec(model), task2vec(data))
    assert distances(data, {"oracle": model})["oracle"] == pytest.approx(0.0, abs=1e-12)
    for name, tensor in data.tensors().items():
        assert torch.equal(tensor, model.tensors()[name])


def test_a_better_model_of_the_task_is_nearer(surrogate, inputs, tasks):
    truth = tasks["length"]
    flips = np.random.default_rng(1).permutation(N)
    worse = {share: truth ^ np.isin(np.arange(N), flips[: int(share * N)]) for share in (0.04, 0.5)}
    target = dataset_embedding(surrogate, inputs, truth, examples=16)
    found = distances(
        target,
        {
            str(share): model_embedding(surrogate, inputs, lambda _, y=y: y, examples=16)
            for share, y in worse.items()
        },
    )
    assert found["0.04"] < found["0.5"]


def test_what_classes_are_called_does_not_matter(surrogate, inputs, tasks):
    one = dataset_embedding(surrogate, inputs, tasks["drawn"], examples=8)
    other = dataset_embedding(surrogate, inputs, tasks["drawn"] * 7 + 3, examples=8)
    np.testing.assert_array_equal(task2vec(one), task2vec(other))


def test_an_encoder_with_a_head_answers(surrogate, inputs):
    encoder = Encoder.load(surrogate)
    rng = np.random.default_rng(2)
    head = Head(rng.normal(size=(3, encoder.dim)), np.zeros(3), ("a", "b", "c"), "other")
    answers = answers_of(encoder, head)(inputs)
    np.testing.assert_array_equal(answers, head.predict(encoder.features(inputs)))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros(N, dtype=int), "two classes or more, found 1"),
        (np.zeros(N - 1, dtype=int), rf"expected {N} classes as labels, found shape \({N - 1},\)"),
        (np.zeros(N), "dtype float64"),
    ],
)
def test_labels_that_are_no_task(surrogate, inputs, labels, said):
    with pytest.raises(DataError, match=said):
        dataset_embedding(surrogate, inputs, labels)


def test_a_model_that_says_one_thing(surrogate, inputs):
    with pytest.raises(DataError, match="answers of two classes or more"):
        model_embedding(surrogate, inputs, lambda asked: [1] * len(asked))
