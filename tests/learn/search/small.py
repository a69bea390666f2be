"""A small network, adapters on it as folders, and problems over them."""

import json

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import taskloom
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.store.open import open_checkpoint


class Net(nn.Module):
    """Two matrices and a bias, three classes."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3, bias=False)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x)))


def pool(folder, count=3, ranks=None, seed=0):
    """Write a base and LoRA adapters of it; return their paths."""
    torch.manual_seed(seed)
    (folder / "base").mkdir(parents=True)
    save_file(Net().state_dict(), folder / "base" / "model.safetensors")
    for number in range(count):
        target = folder / f"e{number}"
        target.mkdir()
        rank = 2 if ranks is None else ranks[number]
        factors = {
            f"base_model.model.{module}.lora_{side}.weight": torch.randn(*shape)
            for module, (rows, columns) in {"up": (6, 4), "down": (3, 6)}.items()
            for side, shape in (("A", (rank, columns)), ("B", (rows, rank)))
        }
        save_file(factors, target / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}
        config["target_modules"] = ["up", "down"]
        (target / "adapter_config.json").write_text(json.dumps(config))
    return folder / "base", {f"e{number}": folder / f"e{number}" for number in range(count)}


def module_of(weights):
    net = Net()
    net.load_state_dict({name: weights[name] for name in net.state_dict()})
    return net


def adapted(folder, *, count=3, n=5, batch=5, labels=None, ranks=None, tasks=("target",), **more):
    """A problem on adapters: few examples, labelled by the adapters' sum at weights 0.8, -0.5, 0, ..."""
    where, experts = pool(folder, count, ranks)
    base = open_checkpoint(where)
    opened = {name: open_checkpoint(path, base=base) for name, path in experts.items()}
    torch.manual_seed(1)
    x = torch.randn(n, 4)
    start = module_of({name: base.read(name) for name in base.tensors})
    if labels is None:
        weights = dict(zip(opened, [0.8, -0.5] + [0.0] * count, strict=False))
        labels = module_of(mixed(base, opened, weights))(x).argmax(-1)
    batches = [(x[i : i + batch], labels[i : i + batch]) for i in range(0, n, batch)]
    problem = Problem(
        base=base,
        experts=opened,
        probes={task: Probe.of_module(start) for task in tasks},
        batches={task: Examples.of(batches) for task in tasks},
        merge=lambda method, options: taskloom.merge(base, opened, method, **options),
        **more,
    )
    return problem, where, experts


def mixed(base, opened, weights):
    """Restate LoraHub: every factor summed by itself, in float64 numpy."""
    made = {name: base.read(name) for name in base.tensors}
    for name in ("up.weight", "down.weight"):
        left, right = 0.0, 0.0
        for expert, weight in weights.items():
            b, a, scaling = opened[expert].factors(name)
            left = left + weight * scaling * b.double().numpy()
            right = right + weight * a.double().numpy()
        made[name] = torch.from_numpy(made[name].double().numpy() + left @ right).float()
    return made


def cross_entropies(net, x, y):
    """Return the loss of every example, restated in numpy."""
    logits = net(x).detach().double().numpy()
    logits -= logits.max(1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -logs[np.arange(len(y)), y.numpy()]
