"""A small model with a tied weight, a buffer and blocks; its experts; gradients by autograd."""

import json

import torch
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call

from taskloom.algebra.grouped import group_of, part_of
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.writer import write_safetensors


class Net(nn.Module):
    """Looks a token up, goes through two blocks and a batch norm, and reads out with the same table."""

    def __init__(self, width=4, tokens=6):
        super().__init__()
        self.table = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, tokens, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x):
        hidden = self.table(x)
        for block in self.blocks:
            hidden = torch.tanh(block(hidden)) + hidden
        return self.out(self.norm(hidden))


def net(dtype=torch.float64, **size):
    torch.manual_seed(0)
    model = Net(**size).to(dtype).eval()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2.0)
    return model


def expert_of(model, seed, noise=0.3):
    """Return the weights of the model with noise; tied ones stay tied."""
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, tensor in model.state_dict().items():
        if name == "out.weight":
            moved[name] = moved["table.weight"]
        elif tensor.is_floating_point():
            noisy = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * noise
            moved[name] = tensor + noisy.to(tensor.dtype)
            if "running_var" in name:
                moved[name] = moved[name].abs() + 0.1
        else:
            moved[name] = tensor
    return moved


def problem(model, count=3, *, folder=None, tasks=("a", "b"), size=6, **more):
    """Return a problem of experts in memory, or in files of a folder."""
    weights = {f"e{k}": expert_of(model, seed=k + 1) for k in range(count)}
    base = model.state_dict()
    if folder is not None:
        weights = {name: save(folder / name, each) for name, each in weights.items()}
        stored = save(folder / "base", base)
    else:
        weights = {name: MemoryCheckpoint(each) for name, each in weights.items()}
        stored = MemoryCheckpoint(base)
    probe = Probe.of_module(model)
    return Problem(
        base=stored,
        experts=weights,
        probes=dict.fromkeys(tasks, probe),
        batches={task: examples(seed, size) for seed, task in enumerate(tasks)},
        own={task: f"e{number}" for number, task in enumerate(tasks)},
        **more,
    )


def examples(seed, size=6, tokens=6, batches=2):
    generator = torch.Generator().manual_seed(100 + seed)
    drawn = [torch.randint(0, tokens, (2, size), generator=generator) for _ in range(batches)]
    return Examples.of([(inputs, labels) for inputs, labels in drawn])


def save(path, weights):
    path.mkdir(parents=True, exist_ok=True)
    kept = {name: t for name, t in weights.items() if name != "out.weight"}  # tied: stored once
    infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in kept.items()}
    write_safetensors(path / "model.safetensors", infos, kept.items(), {"format": "pt"})
    return SafetensorsCheckpoint(path)


def adapter(path, module, a, b):
    """Write a LoRA adapter of one module, of scaling 2, and return its folder."""
    path.mkdir(parents=True)
    prefix = f"base_model.model.{module}"
    save_file(
        {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b},
        path / "adapter_model.safetensors",
    )
    rank = len(a)
    table = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": [module]}
    (path / "adapter_config.json").write_text(json.dumps(table))
    return path


def in_graph(model, on, layout, table):
    """Return theta with all task vectors in the graph of ``table``; buffers are constants."""
    buffers = {name for name, _ in model.named_buffers()}
    found = {}
    for name in layout.tensors:
        base, place = on.base.read(name), layout.place[name]
        moved = base
        for k, expert in enumerate(layout.experts):
            numbers = table[k, place]
            if layout.parts > 1:
                where = part_of(name, 0, base.numel(), layout.parts, layout.parts_seed)
                numbers = numbers[where].reshape(base.shape)
            tau = on.experts[expert].read(name) - base
            moved = moved + (numbers.to(tau.dtype) * tau)
        found[name] = moved.detach() if name in buffers else moved
    assert set(layout.groups) == {group_of(name, layout.per) for name in found}
    return found


def loss_in_graph(model, theta, on):
    """Sum of the mean cross-entropies of all batches of all tasks."""
    total = 0.0
    for task in on.tasks:
        for inputs, labels in on.batches[task]:
            logits = functional_call(model, theta, (inputs,))
            total = total + nn.functional.cross_entropy(logits, labels)
    return total
