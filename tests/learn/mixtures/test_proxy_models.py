"""The byte model, its gradients, and the sparse autoencoder."""

import math

import numpy as np
import pytest
import torch

from taskloom.errors import DataError, NumericalError, PlanError
from taskloom.learn.mixtures.gradients import Gradients
from taskloom.learn.mixtures.proxy import (
    ByteModel,
    ProxyOptions,
    byte_losses,
    in_turn,
    mean_loss,
    to_bytes,
    train_proxy,
)
from taskloom.learn.mixtures.sparse_autoencoder import (
    SparseAutoencoder,
    top_k,
    train_autoencoder,
)

SMALL = ProxyOptions(
    embedding=6, window=4, hidden=16, max_bytes=20, steps=60, batch_size=8, learning_rate=2e-2
)
TEXTS = ["abababababab", "babababa", "abab", "ababababababababababababab"]


def test_a_byte_sees_the_bytes_before_it():
    batch = to_bytes(["abcdef", "é"], SMALL)
    assert batch.contexts.shape == (2, 6, 4)
    assert batch.contexts[0, 0].tolist() == [256] * 4
    assert batch.contexts[0, 5].tolist() == [98, 99, 100, 101]
    assert batch.targets[0].tolist() == list(b"abcdef")
    assert batch.mask.tolist() == [[1] * 6, [1, 1, 0, 0, 0, 0]]
    assert to_bytes(["x" * 99], SMALL).targets.shape == (1, 20)


def test_losses_are_those_of_the_bytes_that_count():
    model = ByteModel(SMALL)
    batch = to_bytes(["ab", "abcd"], SMALL)
    losses = byte_losses(model(batch.contexts), batch.targets, batch.mask)
    logs = torch.log_softmax(model(batch.contexts), -1)
    assert losses[1, 2].item() == pytest.approx(-logs[1, 2, ord("c")].item(), rel=1e-5)
    assert losses[0, 2:].tolist() == [0, 0]
    assert mean_loss(model, ["ab", "abcd"], batch_size=1) == pytest.approx(
        losses.sum().item() / 6, rel=1e-5
    )


def test_training_learns_and_is_the_same_again():
    before, after = ByteModel(SMALL), train_proxy(TEXTS, SMALL)
    assert mean_loss(before, TEXTS) > 5
    assert mean_loss(after, TEXTS) < 1.5
    again = train_proxy(TEXTS, SMALL)
    assert mean_loss(again, TEXTS) == mean_loss(after, TEXTS)
    kept = {name: value.clone() for name, value in after.state_dict().items()}
    longer = train_proxy(TEXTS, SMALL, start=after)
    assert mean_loss(longer, TEXTS) < mean_loss(after, TEXTS)
    assert all(torch.equal(kept[name], value) for name, value in after.state_dict().items())


def test_every_text_has_its_turn():
    picked = torch.cat(list(in_turn(5, 3, 10, 0))).tolist()
    assert len(picked) == 30
    assert all(sorted(picked[at : at + 5]) == list(range(5)) for at in range(0, 30, 5))


def test_bad_proxies_are_refused():
    with pytest.raises(PlanError, match="steps is 0"):
        ProxyOptions(steps=0)
    with pytest.raises(PlanError, match="learning_rate"):
        ProxyOptions(learning_rate=2)
    with pytest.raises(DataError, match="texts to train on"):
        train_proxy(["", ""], SMALL)
    with pytest.raises(DataError, match="measure the loss"):
        mean_loss(ByteModel(SMALL), [""])


def one_by_one(model, text):
    batch = to_bytes([text], model.options)
    losses = byte_losses(model(batch.contexts), batch.targets, batch.mask)
    found = torch.autograd.grad(losses.sum() / batch.mask.sum().clamp(min=1), list(model.parameters()))
    return torch.cat([each.flatten() for each in found])


def test_gradients_are_those_of_one_text_at_a_time():
    model = train_proxy(TEXTS, SMALL)
    full = Gradients(model).full([*TEXTS, ""])
    for row, text in zip(full, TEXTS, strict=False):
        torch.testing.assert_close(row, one_by_one(model, text), rtol=1e-4, atol=1e-6)
    assert not full[-1].any()


def test_projections_keep_inner_products_and_the_order_of_texts():
    model = train_proxy(TEXTS, SMALL)
    texts = [*TEXTS, "zzz", "1234"]
    full = Gradients(model).full(texts).numpy()
    found = Gradients(model, width=400, batch_size=2)(texts)
    lengths = np.linalg.norm(full, axis=1)
    assert found.shape == (6, 400)
    error = (found @ found.T - full @ full.T) / np.outer(lengths, lengths)
    assert np.abs(error).max() < 6 / math.sqrt(400)
    torch.testing.assert_close(
        torch.from_numpy(Gradients(model, width=400)(texts)),
        torch.from_numpy(found),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_projection_is_the_matrix_that_it_says():
    maker = Gradients(ByteModel(SMALL), width=30, spread=3, seed=4)
    count = sum(each.numel() for each in ByteModel(SMALL).parameters())
    matrix = np.zeros((count, 30))
    for places, signs in zip(maker._places.numpy(), maker._signs.numpy(), strict=True):
        np.add.at(matrix, (np.arange(count), places), signs)
    vectors = torch.randn(2, count, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(maker.project(vectors), vectors.numpy() @ matrix, atol=1e-3)
    with pytest.raises(PlanError, match="spread is 9"):
        Gradients(ByteModel(SMALL), width=8, spread=9)


def test_top_k_is_the_cards():
    found = top_k(torch.tensor([[0.3, -0.2, 0.9, 0.1], [-1.0, -2.0, -3.0, 4.0]]), 2)
    torch.testing.assert_close(found, torch.tensor([[0.3, 0, 0.9, 0], [0, 0, 0, 4.0]]))


def sparse_data(n=600, width=12, units=24, seed=0):
    """Vectors that are sums of two of many directions, and a constant."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(units, width))
    codes = np.zeros((n, units))
    for row in codes:
        row[random.choice(units, 2, replace=False)] = random.uniform(1, 2, 2)
    return (codes @ directions + 5).astype(np.float32)


def test_an_autoencoder_tells_its_vectors_by_few_units():
    hidden = sparse_data()
    model = train_autoencoder(hidden, units=48, active=4, steps=150, batch_size=128, learning_rate=1e-2)
    codes = model.codes(torch.from_numpy(hidden))
    assert codes.shape == (600, 48)
    assert codes.min() >= 0
    assert (codes > 0).sum(1).max() <= 4
    torch.testing.assert_close(model.decoder.norm(dim=1), torch.ones(48))
    untrained = SparseAutoencoder(12, units=48, active=4, seed=0)
    with torch.no_grad():
        untrained.scale.copy_(model.scale)
    other = torch.from_numpy(sparse_data(seed=0)[:200])
    assert model.unexplained(other) < 0.25
    assert model.unexplained(other) < 0.5 * untrained.unexplained(other)


def test_bad_autoencoders_are_refused():
    with pytest.raises(PlanError, match="9 active units, expected 1 to 8"):
        train_autoencoder(sparse_data(), units=8, active=9)
    with pytest.raises(DataError, match="two hidden vectors"):
        train_autoencoder(np.ones((1, 3), np.float32), units=4, active=1)
    with pytest.raises(DataError, match="are the same"):
        train_autoencoder(np.ones((5, 3), np.float32), units=4, active=1)
    with pytest.raises(NumericalError, match="NaN"):
        train_autoencoder(np.full((5, 3), np.nan, np.float32), units=4, active=1)
