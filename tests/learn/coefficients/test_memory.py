"""Bytes of tensors that are alive during a fit: they do not grow with the number of experts."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from taskloom.learn.coefficients import vectors
from taskloom.learn.coefficients.descend import Descent, descend
from taskloom.learn.coefficients.layout import Layout

from .small import in_graph, loss_in_graph, net, problem

SIZE = {"width": 32, "tokens": 400}


class Meter(TorchDispatchMode):
    """Adds up the storages that operations make, while they are alive; ``peak`` is in bytes."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: pair for key, pair in self.alive.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return found


@pytest.fixture
def pools(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "ROOM", 1 << 11)
    monkeypatch.setattr(vectors, "LEAST", 1 << 7)
    model = net(torch.float32, **SIZE)
    made = {k: problem(model, k, folder=tmp_path / str(k), size=3) for k in (2, 16)}
    return model, made, sum(t.numel() * 4 for t in model.parameters())


def peak(work):
    with Meter() as meter:
        work()
    return meter.peak


@pytest.mark.parametrize("lean", [False, True])
def test_a_fit_takes_no_more_with_sixteen_experts_than_with_two(pools, lean):
    _, made, size = pools
    how = Descent("entropy", per="tensor", start=0.3, steps=2, threads=1, lean=lean)
    few, many = (peak(lambda on=on: descend(on, how, name="toy")) for on in made.values())
    assert many <= 1.3 * few
    # the weights, their gradient unless it is folded at once; the largest tensor (tied: it gets two
    # gradients, and their sum); pieces of all experts; half a model for what the small batches take
    largest, pieces = 4 * SIZE["width"] * SIZE["tokens"], 6 * vectors.ROOM
    assert many <= (1 if lean else 2) * size + 3 * largest + pieces + size / 2


def test_the_meter_sees_task_vectors_in_a_graph(pools):
    model, made, size = pools

    def naive(on):
        layout = Layout.of(on.names, on.base.tensors, "tensor")
        table = layout.full(0.3).requires_grad_()
        loss_in_graph(model, in_graph(model, on, layout, table), on).backward()

    few, many = (peak(lambda on=on: naive(on)) for on in made.values())
    assert many > 2 * few
    assert many > 16 * size
