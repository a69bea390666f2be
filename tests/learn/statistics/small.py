"""Small models with known gradients."""

import torch
from torch import nn

from taskloom.learn.probe import Examples, Probe, Setting


class Logistic(nn.Module):
    """Two classes: logits 0 and w x."""

    def __init__(self, weight):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        score = x @ self.w
        return torch.stack([torch.zeros_like(score), score], 1)


class Net(nn.Module):
    """Two layers, a buffer and a parameter that is not used."""

    def __init__(self, seed=0, classes=3):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, classes)])
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, x):
        return self.layers[1](torch.tanh(self.layers[0](x * self.scale)))


def batches(n=10, size=4, seed=0, classes=3, width=4):
    torch.manual_seed(seed)
    x, y = torch.randn(n, width), torch.arange(n) % classes
    return [(x[i : i + size], y[i : i + size]) for i in range(0, n, size)]


def setting(module, given=None, **more):
    given = batches() if given is None else given
    return Setting(Probe.of_module(module), Examples.of(given), **more)
