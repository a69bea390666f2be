"""Bytes of tensors that are alive during a fit: they do not grow with the number of experts."""

from dataclasses import replace

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from taskloom.learn.coefficients import vectors
from taskloom.learn.coefficients.descend import Descent, descend
from taskloom.learn.coefficients.layout import Layout

from .small import in_graph, loss_in_graph, net, problem

SIZE = {"width": 32, "tokens": 160}


class Meter(TorchDispatchMode):
    """Adds up a model's storages and those that operations make, while alive; ``peak`` is in bytes."""

    def __init__(self, model):
        super().__init__()
        self.alive, self.peak = {}, 0
        for tensor in model.state_dict().values():
            self._see(tensor)

    def _see(self, tensor):
        storage = tensor.untyped_storage()
        self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, torch.Tensor):
                self._see(each)
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


def peak(model, work):
    with Meter(model) as meter:
        work()
    return meter.peak


@pytest.mark.parametrize(("lean", "borrow"), [(False, False), (False, True), (True, True)])
def test_a_fit_takes_no_more_with_sixteen_experts_than_with_two(pools, lean, borrow):
    model, made, size = pools
    made = {k: replace(on, borrow=borrow) for k, on in made.items()}
    how = Descent("entropy", per="tensor", start=0.3, steps=1, threads=1, lean=lean)
    few, many = (peak(model, lambda on=on: descend(on, how, name="toy")) for on in made.values())
    assert many <= 1.3 * few
    # the model; merged weights unless it lends its own; their gradient unless it is folded at once;
    # the largest tensor (tied: it gets two gradients, and their sum); pieces of all experts; half a
    # model for what the small batches take
    largest, pieces = 4 * SIZE["width"] * SIZE["tokens"], 6 * vectors.ROOM
    copies = 1 + (not lean) + (not borrow)
    assert many <= copies * size + 3 * largest + pieces + size / 2


def test_the_meter_sees_task_vectors_in_a_graph(pools):
    model, made, size = pools

    def naive(on):
        layout = Layout.of(on.names, on.base.tensors, "tensor")
        table = layout.full(0.3).requires_grad_()
        loss_in_graph(model, in_graph(model, on, layout, table), on).backward()

    few, many = (peak(model, lambda on=on: naive(on)) for on in made.values())
    assert many > 2 * few
    assert many > 16 * size


@pytest.mark.parametrize("lean", [False, True])
def test_borrowed_memory_has_the_base_again_and_changes_no_number(pools, lean):
    model, made, _ = pools
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    how = Descent("entropy", per="tensor", start=0.3, steps=3, lean=lean)
    own, borrowed = (descend(replace(made[2], borrow=b), how, name="toy") for b in (False, True))
    assert own.options == borrowed.options
    assert [step.loss for step in own.trace] == [step.loss for step in borrowed.trace]
    seen = []

    def stop(*_):
        seen.append(any((t != before[n]).any() for n, t in model.state_dict().items()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descend(replace(made[2], borrow=True, progress=stop), how, name="toy")
    assert seen == [True]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.data_ptr() == places[name]
        assert not tensor.requires_grad
