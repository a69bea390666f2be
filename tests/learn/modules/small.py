"""Small nets with blocks and tokens, and problems over them."""

import torch
from torch import nn

from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.store.memory import MemoryCheckpoint

TASKS = ("mood", "topic")


class Block(nn.Module):
    """A residual block with an MLP of two layers."""

    def __init__(self, width, inner):
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, h):
        return h + self.fc2(torch.tanh(self.fc1(h)))


class Deep(nn.Module):
    """Blocks over tokens, their mean over what the mask counts, and a classifier."""

    def __init__(self, seed=0, *, width=6, inner=8, blocks=2, classes=3):
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList([Block(width, inner) for _ in range(blocks)])
        self.classifier = nn.Linear(width, classes)

    def forward(self, x, attention_mask=None):
        for block in self.blocks:
            x = block(x)
        if attention_mask is None:
            return self.classifier(x.mean(1))
        kept = attention_mask[:, :, None].to(x.dtype)
        return self.classifier((x * kept).sum(1) / kept.sum(1))


def state(net):
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def moved(base, seed, size=0.3, leave="classifier"):
    """Return weights some way from the base; the head stays."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: t if name.startswith(leave) else t + size * torch.randn(t.shape, generator=generator)
        for name, t in base.items()
    }


def inputs(n=24, tokens=4, width=6, seed=0):
    return torch.randn(n, tokens, width, generator=torch.Generator().manual_seed(seed))


def problem(*, net=None, experts=None, labels=False, tasks=TASKS, size=8, n=24, **more):
    """Two tasks of one net whose experts lie some way from the base in two directions."""
    net = net or Deep()
    base = state(net)
    found = experts or {f"{task} expert": moved(base, 1 + k) for k, task in enumerate(tasks)}
    given = {}
    for k, task in enumerate(tasks):
        x = inputs(n, seed=10 + k)
        with torch.no_grad():
            y = torch.func.functional_call(net, dict(found[f"{task} expert"]), (x,)).argmax(1)
        pairs = [(x[i : i + size], y[i : i + size] if labels else None) for i in range(0, n, size)]
        given[task] = Examples.of(pairs)
    options = {
        "probes": {task: Probe.of_module(net) for task in tasks},
        "batches": given,
        "own": {task: f"{task} expert" for task in tasks},
        **more,
    }
    checkpoints = {name: MemoryCheckpoint(weights, name) for name, weights in found.items()}
    return Problem(MemoryCheckpoint(base, "base"), checkpoints, **options)


def averaged(on):
    """Return the mean of base + task vectors, as average merging does."""
    experts = list(on.experts.values())
    return {name: torch.stack([e.read(name) for e in experts]).mean(0) for name in on.base.tensors}


def runs(net, weights, x, **more):
    """Return the logits of a net at certain weights, in plain torch."""
    with torch.no_grad():
        return torch.func.functional_call(net, dict(weights), (x,), more)
