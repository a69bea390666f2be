"""The toy problem C of the method cards: a linear classifier of two classes, two experts."""

import torch
from torch import nn

from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.store.memory import MemoryCheckpoint

BASE = torch.tensor([[0.25, -0.125], [0.0, 0.125]], dtype=torch.float64)
TAUS = {
    "one": torch.tensor([[1.0, 0.25], [-1.0, -0.25]], dtype=torch.float64),
    "two": torch.tensor([[-0.5, 1.0], [0.5, -1.0]], dtype=torch.float64),
}
INPUTS = {
    "first": torch.tensor([[1.0, 0.25], [-0.75, 0.125]], dtype=torch.float64),
    "second": torch.tensor([[0.125, 1.0], [0.25, -1.0]], dtype=torch.float64),
}
LABELS = torch.tensor([0, 1])
OWN = {"first": "one", "second": "two"}


class Rows(nn.Module):
    """The classifier with each row of its matrix as a tensor of its own."""

    def __init__(self):
        super().__init__()
        self.row0, self.row1 = nn.Parameter(BASE[0].clone()), nn.Parameter(BASE[1].clone())

    def forward(self, x):
        return x @ torch.stack([self.row0, self.row1]).T


def linear():
    module = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    module.load_state_dict({"weight": BASE})
    return module


def toy(*, rows=False, labelled=True, tasks=("first", "second"), **more):
    """Return the problem; with ``rows`` the two rows of the matrix are tensors apart."""
    module = Rows() if rows else linear()

    def weights(tau):
        moved = BASE + tau
        return {"row0": moved[0], "row1": moved[1]} if rows else {"weight": moved}

    probe = Probe.of_module(module)
    labels = LABELS if labelled else None
    return Problem(
        base=MemoryCheckpoint(weights(torch.zeros(2, 2, dtype=torch.float64))),
        experts={name: MemoryCheckpoint(weights(tau)) for name, tau in TAUS.items()},
        probes=dict.fromkeys(tasks, probe),
        batches={task: Examples.of([(INPUTS[task], labels)]) for task in tasks},
        own={task: OWN[task] for task in tasks},
        **more,
    )
