"""Gram matrices of inputs: card 21, hooks, padding."""

import pytest
import torch
from torch import nn

from taskloom import merge
from taskloom.errors import DataError
from taskloom.learn.collect import collect

from .small import Logistic, Net, batches, setting


def test_card_21():
    x = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 2]])
    found = collect("gram", setting(nn.Linear(3, 2), [(x[:3], None), (x[3:], None)]))
    expected = [[0.5, 0.25, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 1.25]]
    assert found.tensors()["weight"].tolist() == expected
    assert found.table["transposed"] == "[]"


def test_every_layer_gets_the_inputs_it_sees():
    module = Net()
    x = torch.cat([inputs for inputs, _ in batches()])
    found = collect("gram", setting(module)).tensors()
    assert set(found) == {"layers.0.weight", "layers.1.weight"}
    first = x * 1.5
    second = torch.tanh(module.layers[0](first)).detach()
    torch.testing.assert_close(found["layers.0.weight"], first.T @ first / 10)
    torch.testing.assert_close(found["layers.1.weight"], second.T @ second / 10)
    assert not module.layers[0]._forward_pre_hooks


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, tokens, attention_mask):
        return self.out((self.inner(tokens) * attention_mask[..., None]).sum(1))


@pytest.mark.parametrize(("padding", "tokens"), [("skip", 3), ("count", 4)])
def test_padding(padding, tokens):
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [5.0, 5.0]]])
    batch = {"tokens": x, "attention_mask": torch.tensor([[1, 1], [1, 0]])}
    found = collect("gram", setting(Masked(), [(batch, None)]), padding=padding).tensors()
    rows = x.reshape(-1, 2)[:tokens]
    torch.testing.assert_close(found["inner.weight"], rows.T @ rows / tokens)
    assert found["out.weight"].shape == (2, 2)


class Conv1D(nn.Module):
    """As GPT-2 stores its layers: (in, out)."""

    def __init__(self):
        super().__init__()
        self.nf = 2
        self.weight = nn.Parameter(torch.ones(3, 2))

    def forward(self, x):
        return x @ self.weight


def test_layers_stored_turned_are_named():
    found = collect("gram", setting(nn.Sequential(Conv1D()), [(torch.eye(3), None)]))
    assert found.table["transposed"] == '["0.weight"]'
    assert found.tensors()["0.weight"].shape == (3, 3)


def test_a_model_without_linear_layers():
    with pytest.raises(DataError, match="has no linear layers"):
        collect("gram", setting(Logistic([1.0, 2.0]), [(torch.ones(1, 2), None)]))


def test_regmean_comes_nearer_to_the_experts_outputs_than_the_mean():
    experts = {name: Net(seed) for name, seed in (("a", 1), ("b", 2))}
    data = {name: batches(40, 40, seed=seed) for name, seed in (("a", 3), ("b", 4))}
    given = {n: collect("gram", setting(m, data[n])) for n, m in experts.items()}
    weights = {n: {k: v.detach() for k, v in m.state_dict().items()} for n, m in experts.items()}

    def error(recipe, **options):
        merged = Net(0)
        merged.load_state_dict(merge(None, weights, recipe, **options))
        return sum(
            float(((merged.layers[0](x) - module.layers[0](x)) ** 2).sum().detach())
            for (x, _), module in ((data[n][0], m) for n, m in experts.items())
        )

    assert error("regmean", statistics=given, off_diagonal=1.0) < error("average")
