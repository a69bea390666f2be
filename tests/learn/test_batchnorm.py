"""Batch norm of a merged conv net: wrong before, right after."""

import pytest
import torch
from torch import nn

from taskloom import merge
from taskloom.errors import DataError, NumericalError
from taskloom.learn.batchnorm import reestimate_batchnorm


class Conv(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
        )
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.drop(self.body(x).relu().mean((2, 3))))


def images(n=64, seed=0):
    torch.manual_seed(seed)
    return 2 * torch.randn(n, 1, 8, 8) + 1


def trained(seed):
    """A net whose statistics are those of its own activations."""
    module = Conv(seed).train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        module(images())
    return module.eval()


def merged():
    return merge(None, [trained(1), trained(2)], "average")


def loaded(state):
    module = Conv(0).eval()
    module.load_state_dict(state)
    return module


def activations(module, x, name):
    """Inputs of a layer when every batch norm takes the statistics of the batch."""
    seen = {}
    hook = dict(module.named_modules())[name].register_forward_pre_hook(
        lambda _, args: seen.update(x=args[0].detach())
    )
    for layer in module.modules():
        layer.train(isinstance(layer, nn.BatchNorm2d))
    with torch.no_grad():
        module(x)
    hook.remove()
    return seen["x"]


@pytest.mark.parametrize("name", ["body.1", "body.4"])
def test_wrong_before_and_right_after(name):
    x, state = images(), merged()
    state = {k: v.detach() for k, v in state.items()}
    after = reestimate_batchnorm(Conv(0), [x], weights=state)
    truth = activations(loaded(state), x, name)
    mean, variance = truth.mean((0, 2, 3)), truth.var((0, 2, 3))
    assert (state[f"{name}.running_var"] - variance).abs().max() > 0.1 * variance.max()
    torch.testing.assert_close(after[f"{name}.running_mean"], mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after[f"{name}.running_var"], variance, atol=1e-5, rtol=1e-4)


def test_outputs_are_those_of_a_normalised_network():
    x = images()
    state = {k: v.detach() for k, v in merged().items()}
    after = reestimate_batchnorm(Conv(0), [x], weights=state)
    module = loaded(state)
    for layer in module.modules():
        layer.train(isinstance(layer, nn.BatchNorm2d))
    with torch.no_grad():
        wanted = module(x)
        right = (loaded(after)(x) - wanted).abs().max()
        wrong = (loaded(state)(x) - wanted).abs().max()
    assert right < 1e-2 * wrong + 1e-3
    assert wrong > 0.02


def test_only_statistics_change_and_the_module_stays():
    module = trained(1).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    after = reestimate_batchnorm(module, [images(seed=5)])
    assert module.training
    assert module.body[1].training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {f"body.{i}.running_{what}" for i in (1, 4) for what in ("mean", "var")}


def test_the_first_layer_does_not_depend_on_how_examples_are_batched():
    x, module = images(), trained(1)
    one = reestimate_batchnorm(module, [x])
    many = reestimate_batchnorm(module, list(x.split(10)))
    for what in ("mean", "var"):
        key = f"body.1.running_{what}"
        torch.testing.assert_close(one[key], many[key], atol=1e-6, rtol=1e-6)


def test_keyword_inputs_and_a_bare_layer():
    rows = torch.randn(50, 3)
    found = reestimate_batchnorm(nn.BatchNorm1d(3), [{"input": rows[:20]}, {"input": rows[20:]}])
    torch.testing.assert_close(found["running_mean"], rows.mean(0))
    torch.testing.assert_close(found["running_var"], rows.var(0))


def test_bad_input():
    with pytest.raises(DataError, match="no batch norm that keeps"):
        reestimate_batchnorm(nn.Linear(2, 2), [torch.ones(2, 2)])
    with pytest.raises(DataError, match="no examples"):
        reestimate_batchnorm(trained(1), [])
    with pytest.raises(DataError, match=r"a batch of 1: .* Give larger batches"):
        reestimate_batchnorm(nn.BatchNorm1d(3), [torch.ones(1, 3)])
    with pytest.raises(NumericalError, match=r"before 'body\.1' are not finite"):
        reestimate_batchnorm(trained(1), [torch.full((4, 1, 8, 8), torch.nan)])
