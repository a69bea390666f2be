"""Adapters of a small transformer, as peft would save them, and problems over them."""

import torch

from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.adapter_layout import Layout
from taskloom.store.adapter_writer import write_adapter
from taskloom.store.memory import MemoryCheckpoint

from .small import Deep, inputs, state

RANK = 2


def low_rank(net, seed, size=0.6):
    """Return left and right of every MLP matrix."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return size * torch.randn(*shape, generator=generator)

    return {
        name: (draw(t.shape[0], RANK), draw(RANK, t.shape[1]))
        for name, t in net.state_dict().items()
        if name.endswith("weight") and "fc" in name
    }


def write(net, factors, folder):
    """Write an adapter; return it on its base."""
    base = MemoryCheckpoint(state(net), "base")
    with write_adapter(folder, base.tensors) as writer:
        for name, (left, right) in factors.items():
            writer.low_rank(name, left, right)
        writer.finish(Layout((), (), ()))
    return AdapterCheckpoint(folder, base)


def applied(net, factors, weights):
    """Return base + the sum of weighted changes, in plain torch: weights by tensor, then adapter."""
    found = state(net)
    for name in factors[0]:
        for k, each in enumerate(factors):
            left, right = each[name]
            weight = torch.as_tensor(weights[name][k])
            found[name] = found[name] + weight.reshape(-1, 1) * (left @ right)
    return found


def skills(folder, *, teacher, tasks=("mood",), n=48, size=8, count=2, **more):
    """Return net, factors of some adapters and a problem whose labels a weighting of them gives.

    ``teacher`` has a weight for each adapter.
    """
    net = Deep()
    factors = [low_rank(net, 20 + k) for k in range(count)]
    found = {f"skill{k}": write(net, each, folder / f"skill{k}") for k, each in enumerate(factors)}
    told = applied(net, factors, dict.fromkeys(factors[0], teacher))
    batches = {}
    for k, task in enumerate(tasks):
        x = inputs(n, seed=30 + k)
        with torch.no_grad():
            y = torch.func.functional_call(net, told, (x,)).argmax(1)
        batches[task] = Examples.of([(x[i : i + size], y[i : i + size]) for i in range(0, n, size)])
    options = {"probes": {task: Probe.of_module(net) for task in tasks}, "batches": batches, **more}
    return net, factors, Problem(MemoryCheckpoint(state(net), "base"), found, **options)
