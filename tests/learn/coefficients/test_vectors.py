"""Streamed sums and inner products against autograd and against whole tensors."""

import pytest
import torch
from torch import nn

from taskloom.algebra import chain, elect, keep
from taskloom.errors import CheckpointError, PlanError
from taskloom.learn.coefficients import vectors as room
from taskloom.learn.coefficients.blend import Blend
from taskloom.learn.coefficients.layout import Layout
from taskloom.learn.coefficients.vectors import TaskVectors
from taskloom.merging.api import merge
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.memory import MemoryCheckpoint

from .small import adapter, in_graph, loss_in_graph, net, problem, save

LAYOUTS = [("task", 1), ("layer", 1), ("tensor", 1), ("block", 3)]


def layout_of(on, per, parts=1):
    return Layout.of(on.names, on.base.tensors, per, parts=parts, parts_seed=on.seed)


def random_table(layout, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(layout.shape, generator=generator, dtype=torch.float64) * 0.3


@pytest.mark.parametrize(("per", "parts"), LAYOUTS)
@pytest.mark.parametrize("stored", ["memory", "files"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_gradients_are_those_of_autograd(per, parts, stored, dtype, tmp_path):
    model = net(dtype)
    on = problem(model, folder=tmp_path if stored == "files" else None)
    layout = layout_of(on, per, parts)
    table = random_table(layout).requires_grad_()
    theta = in_graph(model, on, layout, table)
    loss_in_graph(model, theta, on).backward()
    with TaskVectors(on.base, on.experts, layout) as vectors:
        blend = Blend(on, vectors)
        blend.build(table.detach())
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        for name, weight in blend.weights("a").items():
            wanted = theta["table.weight" if name == "out.weight" else name].detach()
            torch.testing.assert_close(weight.detach(), wanted, rtol=tolerance, atol=tolerance)
        for task in on.tasks:
            for inputs, labels in on.batches[task]:
                logits = on.probes[task].logits(inputs, blend.weights(task))
                nn.functional.cross_entropy(logits, labels).backward()
        found = blend.gradient()
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, table.grad, rtol=1e-6, atol=max(tolerance, 1e-6))


def test_a_lean_blend_keeps_no_gradient_and_finds_the_same():
    on = problem(net())
    layout = layout_of(on, "layer")
    found = []
    for lean in (False, True):
        with TaskVectors(on.base, on.experts, layout) as vectors:
            blend = Blend(on, vectors, lean=lean)
            for _ in range(2):  # the second build forgets the first
                blend.build(layout.full(0.3))
                for task in on.tasks:
                    for inputs, labels in on.batches[task]:
                        logits = on.probes[task].logits(inputs, blend.weights(task))
                        nn.functional.cross_entropy(logits, labels).backward()
            found.append(blend.gradient())
            kept = [w.grad is not None for w in blend.weights("a").values() if w.requires_grad]
            assert any(kept) is not lean
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_a_buffer_follows_its_group_and_adds_nothing_to_the_gradient():
    model = net()
    on = problem(model)
    layout = layout_of(on, "tensor")
    with TaskVectors(on.base, on.experts, layout) as vectors:
        blend = Blend(on, vectors)
        blend.build(layout.full(0.5))
        mean = blend.weights("a")["norm.running_mean"]
        wanted = in_graph(model, on, layout, layout.full(0.5))["norm.running_mean"]
        torch.testing.assert_close(mean, wanted)
        assert not mean.requires_grad


def test_tied_weights_are_one_tensor():
    on = problem(net())
    with TaskVectors(on.base, on.experts, layout_of(on, "tensor")) as vectors:
        weights = Blend(on, vectors).weights("a")
        assert weights["out.weight"] is weights["table.weight"]


@pytest.mark.parametrize(("per", "parts"), LAYOUTS)
def test_the_recipe_gives_the_weights_that_were_run(per, parts, tmp_path):
    on = problem(net(torch.float32), folder=tmp_path)
    layout = layout_of(on, per, parts)
    table = random_table(layout)
    with TaskVectors(on.base, on.experts, layout) as vectors:
        blend = Blend(on, vectors)
        blend.build(table)
        merged = merge(on.base, on.experts, "coefficients", **layout.options(table))
        for name, weight in blend.weights("a").items():
            if name != "out.weight" and weight.is_floating_point():
                torch.testing.assert_close(weight.detach(), merged[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("trim", [None, 0.5])
def test_any_pieces_and_threads_give_the_same(trim, tmp_path, monkeypatch):
    before = None if trim is None else chain(keep(trim, "model", extra=1), elect("majority"))
    on = problem(net(torch.float32, width=16, tokens=40), folder=tmp_path)
    layout = layout_of(on, "tensor")
    table = random_table(layout)
    generator = torch.Generator().manual_seed(3)
    sums = {}
    for least, threads in ((1 << 12, 1), (64, 1), (64, 4), (64, 4)):
        monkeypatch.setattr(room, "LEAST", least)
        monkeypatch.setattr(room, "ROOM", least)
        with TaskVectors(on.base, on.experts, layout, before=before, threads=threads) as vectors:
            theta = {name: torch.empty(on.base.tensors[name].shape) for name in layout.tensors}
            vectors.build(table, theta)
            gradients = {n: torch.randn(t.shape, generator=generator) for n, t in theta.items()}
            generator.manual_seed(3)
            sums.setdefault(least, []).append((theta, vectors.fold(gradients)))
    (one,), many = sums[1 << 12], sums[64]
    for theta, products in many:
        assert all(torch.equal(theta[n], many[0][0][n]) for n in theta)
        assert torch.equal(products, many[0][1])
        torch.testing.assert_close(products, one[1], rtol=1e-5, atol=1e-5)


def test_trimmed_vectors_are_those_of_the_recipe(tmp_path):
    on = problem(net(torch.float32), folder=tmp_path)
    layout = layout_of(on, "tensor")
    table = random_table(layout)
    before = chain(keep(0.3, "model", extra=1), elect("majority"))
    with TaskVectors(on.base, on.experts, layout, before=before) as vectors:
        theta = {name: torch.empty(on.base.tensors[name].shape) for name in layout.tensors}
        vectors.build(table, theta)
    options = layout.options(table) | {"trim": 0.3}
    merged = merge(on.base, on.experts, "coefficients", **options)
    for name, weight in theta.items():
        torch.testing.assert_close(weight, merged[name], rtol=1e-6, atol=1e-6)


@pytest.fixture
def low_rank(tmp_path):
    """Two adapters and one expert that is stored whole, of a base of two matrices and a bias."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    base = save(
        tmp_path / "base", {"a.weight": normal(300, 8), "b.weight": normal(8, 5), "c": normal(7)}
    )
    folders = [
        adapter(tmp_path / f"adapter{rank}", "a", normal(rank, 8), normal(300, rank)) for rank in (1, 3)
    ]
    whole = {name: base.read(name) + normal(*info.shape) for name, info in base.tensors.items()}
    return base, {
        "one": AdapterCheckpoint(folders[0], base),
        "two": AdapterCheckpoint(folders[1], base),
        "whole": save(tmp_path / "whole", whole),
    }


def test_factors_are_not_multiplied_out_and_give_what_whole_vectors_give(low_rank):
    base, experts = low_rank
    layout = Layout.of(experts, base.tensors, "tensor")
    full = {name: MemoryCheckpoint({n: e.read(n) for n in e.tensors}) for name, e in experts.items()}
    table = random_table(layout)
    generator = torch.Generator().manual_seed(1)
    gradients = {n: torch.randn(i.shape, generator=generator) for n, i in base.tensors.items()}
    results = []
    for pool in (experts, full):
        with TaskVectors(base, pool, layout, threads=2) as vectors:
            theta = {name: torch.empty(info.shape) for name, info in base.tensors.items()}
            vectors.build(table, theta)
            results.append((theta, vectors.fold(gradients)))
    (thin, thin_products), (wide, wide_products) = results
    for name in thin:
        torch.testing.assert_close(thin[name], wide[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(thin_products, wide_products, rtol=1e-4, atol=1e-4)


def test_tensors_that_no_adapter_changes_are_not_touched_again(low_rank):
    base, experts = low_rank
    adapters = {name: experts[name] for name in ("one", "two")}
    layout = Layout.of(adapters, base.tensors, "tensor")
    with TaskVectors(base, adapters, layout) as vectors:
        assert [name for name in layout.tensors if vectors.changed(name)] == ["a.weight"]


def test_parts_of_adapters_are_weighed_entry_by_entry(low_rank):
    base, experts = low_rank
    layout = Layout.of(experts, base.tensors, "block", parts=3)
    table = random_table(layout)
    with TaskVectors(base, experts, layout) as vectors:
        theta = {name: torch.empty(info.shape) for name, info in base.tensors.items()}
        vectors.build(table, theta)
    merged = merge(base, experts, "coefficients", **layout.options(table))
    for name, weight in theta.items():
        torch.testing.assert_close(weight, merged[name], rtol=1e-5, atol=1e-5)


def test_experts_that_are_left_out_are_not_read(tmp_path):
    on = problem(net(torch.float32), folder=tmp_path)
    layout = layout_of(on, "task")
    (tmp_path / "e1" / "model.safetensors").unlink()
    with TaskVectors(on.base, on.experts, layout, skip=("e1",)) as vectors:
        theta = {name: torch.empty(on.base.tensors[name].shape) for name in layout.tensors}
        vectors.build(layout.full(0.5), theta)
        assert vectors.fold(theta)[1].abs().sum() == 0
    with (
        TaskVectors(on.base, on.experts, layout) as vectors,
        pytest.raises(CheckpointError, match=r"e1/model.safetensors: cannot be read"),
    ):
        vectors.build(layout.full(0.5), theta)


def test_a_file_that_changes_is_refused(tmp_path):
    on = problem(net(torch.float32), folder=tmp_path)
    layout = layout_of(on, "task")
    path = tmp_path / "e0" / "model.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    theta = {name: torch.empty(on.base.tensors[name].shape) for name in layout.tensors}
    with (
        TaskVectors(on.base, on.experts, layout) as vectors,
        pytest.raises(CheckpointError, match="changed while it was in use"),
    ):
        vectors.build(layout.full(0.5), theta)


def test_steps_that_need_whole_rows_are_refused():
    on = problem(net())
    with pytest.raises(PlanError, match="cannot run on pieces"):
        TaskVectors(on.base, on.experts, layout_of(on, "task"), before=chain(keep(0.5, "row")))
