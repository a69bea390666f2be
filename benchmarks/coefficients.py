"""Coefficients by gradient: memory and time beside K vectors in the autograd graph, and FusionBench.

    python benchmarks/coefficients.py [--experts 2 4 8 16] [--width 384] [--layers 6] [--steps 4]
        [--peer .venv-peer/bin/python] [--out benchmarks/results/coefficients.md]

Makes a transformer classifier with random weights and experts of it, and runs layer-wise AdaMerging
(one coefficient per expert and tensor, entropy, Adam, two tasks, one batch of each a step) on the same
batches in several ways, each in a process of its own (forked once packages are imported), in turn:

- "ours": the registered fit ``adamerging`` on a problem as `taskloom.fit` makes it: base and experts in
  files, the model loaded, its memory lent to the fit; "ours, lean" is ``lean=True``, as the option.
- "in the graph": task vectors in memory, merged weights computed from them inside the autograd graph.
  Written here; what the released code of AdaMerging does, with `functional_call`.
- "FusionBench": its `LayerWiseMergedModel` and `entropy_loss` in the loop of its AdaMerging, in the
  interpreter that ``--peer`` names, if there is one. Their files are run by themselves, so that the
  package may be installed without what the rest of it needs.

Peak memory is resident memory above that of a process that has fitted a tiny model in the same way; the
model itself, loaded by every way, is part of it.
Every way runs one step first, which is not timed. A "model" is the bytes of the weights in float32.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call

TOKENS, LENGTH, BATCH, CLASSES, TASKS = 2000, 8, 4, 10, ("a", "b")
START, RATE = 0.3, 1e-3
#: width, layers and experts of what is run before anything is counted
TINY = 16, 1, 2
OURS, LEAN, GRAPH, PEER = "ours", "ours, lean", "in the graph", "FusionBench"


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        q, k, v = self.qkv(self.before(x)).chunk(3, -1)
        x = x + self.out(torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v)
        return x + self.down(torch.relu(self.up(self.between(x))))


class Net(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.table = nn.Embedding(TOKENS, width)
        self.layer = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        hidden = self.table(x)
        for block in self.layer:
            hidden = block(hidden)
        return self.norm(hidden).mean(1)


def generate(folder: Path, width: int, layers: int, experts: int) -> int:
    torch.manual_seed(0)
    base = {name: t.detach() for name, t in Net(width, layers).state_dict().items()}
    save_file(base, folder / "base.safetensors")
    for number in range(experts):
        generator = torch.Generator().manual_seed(number + 1)
        moved = {
            n: t + 0.3 * t.std().nan_to_num(0.1) * torch.randn(t.shape, generator=generator)
            for n, t in base.items()
        }
        save_file(moved, folder / f"expert-{number}.safetensors")
    return sum(t.numel() for t in base.values())


def batches() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {task: torch.randint(0, TOKENS, (BATCH, LENGTH), generator=generator) for task in TASKS}


def heads(width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return {task: torch.randn(CLASSES, width, generator=generator) / 8 for task in TASKS}


def loaded(folder: Path, width: int, layers: int) -> Net:
    """Return the model with its weights in memory, tensor by tensor: no second copy at any time."""
    with torch.device("meta"):
        model = Net(width, layers)
    with safe_open(folder / "base.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def entropy(logits):
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


class Clock:
    """Seconds of every step: on the wall, and of the processors."""

    def __init__(self):
        self.marks = [(time.perf_counter(), time.process_time())]

    def tick(self, *_):
        self.marks.append((time.perf_counter(), time.process_time()))

    def steps(self):
        return [
            [b - a for a, b in zip(one, other, strict=True)]
            for one, other in zip(self.marks, self.marks[1:], strict=False)
        ]


def run_ours(folder, width, layers, experts, steps, clock, *, lean):
    from taskloom.learn.probe import Examples, Probe
    from taskloom.learn.problem import Problem
    from taskloom.registry import get
    from taskloom.store.safetensors_dir import SafetensorsCheckpoint

    model, weights = loaded(folder, width, layers), heads(width)
    own = dict(model.state_dict())
    trained, places = tuple(own), {name: name for name in own}

    def probe(head):  # made by hand: `Probe.of_module` reads all weights for their digest
        def run(given, inputs):
            return functional_call(model, dict(given), (inputs,)) @ head.T

        return Probe(model, own, trained, places, run, "", "the benchmark's model")

    on = Problem(
        SafetensorsCheckpoint(folder / "base.safetensors"),
        {f"e{k}": SafetensorsCheckpoint(folder / f"expert-{k}.safetensors") for k in range(experts)},
        {task: probe(weights[task]) for task in TASKS},
        {task: Examples.of([(inputs, None)]) for task, inputs in batches().items()},
        progress=clock.tick,
        borrow=True,  # as `taskloom.runs.seen.Seen.problem` does
    )
    options = {"per": "tensor", "start": START, "rate": RATE, "steps": steps, "passes": 1, "lean": lean}
    fitted = get("fit", "adamerging").function(on, **options)
    return [step.loss for step in fitted.trace]


def run_graph(folder, width, layers, experts, steps, clock):
    model, weights, inputs = loaded(folder, width, layers), heads(width), batches()
    base = dict(model.state_dict())
    taus = []
    for k in range(experts):
        expert = load_file(folder / f"expert-{k}.safetensors")
        taus.append({name: expert[name] - tensor for name, tensor in base.items()})
    table = torch.full((experts, len(base)), START, requires_grad=True)
    adam = torch.optim.Adam([table], lr=RATE)
    losses = []
    for _ in range(steps):
        numbers = table.clamp(0, 1)
        theta = {
            name: tensor + sum(numbers[k, place] * taus[k][name] for k in range(experts))
            for place, (name, tensor) in enumerate(base.items())
        }
        loss = sum(
            entropy(functional_call(model, theta, (inputs[task],)) @ weights[task].T) for task in TASKS
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
        clock.tick()
    return losses


#: files of the peer whose classes and functions are run
FILES = ("models/utils.py", "models/wrappers/layer_wise_fusion.py", "method/adamerging/entropy_loss.py")


def peer() -> dict[str, Any]:
    """Return what the peer's files define; its packages need more than these do."""
    spec = importlib.util.find_spec("fusion_bench")
    folder = Path(next(iter(spec.submodule_search_locations)))
    known = {"StateDictType": dict, "TorchModelType": TypeVar("TorchModelType"), "__name__": "peer"}
    for file in FILES:
        body = [
            node
            for node in ast.parse((folder / file).read_text(encoding="utf-8")).body
            if not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith(FOREIGN))
        ]
        exec(compile(ast.Module(body, []), file, "exec"), known)
    return known


#: what is left out of their imports
FOREIGN = ("fusion_bench", "transformers", "lightning", "omegaconf")


def run_peer(folder, width, layers, experts, steps, clock):
    parts = peer()
    entropy_loss, wrapper = parts["entropy_loss"], parts["LayerWiseMergedModel"]

    def load(name):
        model = Net(width, layers)
        model.load_state_dict(load_file(folder / f"{name}.safetensors"))
        return model

    base = load("base")
    count = len(list(base.parameters()))
    module = wrapper(
        parts["get_layer_wise_weights"](experts, count, START),
        base,
        [load(f"expert-{k}") for k in range(experts)],
        clamp_weights=True,
    )
    weights, inputs = heads(width), batches()
    adam = torch.optim.Adam([module.merge_weight], lr=RATE)
    module.train()
    module.merge_weights()
    losses = []
    for _ in range(steps):
        total = 0.0
        for task in TASKS:
            loss = entropy_loss(module(inputs[task]) @ weights[task].T)
            loss.backward(retain_graph=True)
            total += float(loss.detach())
        adam.step()
        adam.zero_grad()
        module.merge_weights()
        losses.append(total)
        clock.tick()
    return losses


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(each for each in lines if each.startswith(key))
    return int(line.split()[1]) * 1024


#: what each way imports before its memory is counted
IMPORTS = {
    OURS: ["taskloom.learn.fits.adamerging"],
    LEAN: [],
    GRAPH: ["torch._dynamo"],  # the first step of torch's optimisers would import it
    PEER: ["torch._dynamo"],
}


def serve(ways: list[str], folder: Path, asked: argparse.Namespace) -> None:
    """Run every way for every number of experts, each in a process forked from this one."""
    for way in ways:
        for name in IMPORTS[way]:
            importlib.import_module(name)
    for experts in asked.experts:
        for way in ways:
            child = os.fork()
            if not child:
                try:
                    one(way, folder, asked.width, asked.layers, experts, asked.steps)
                    os._exit(0)
                finally:
                    os._exit(1)
            if os.waitpid(child, 0)[1]:
                raise SystemExit(f"{way} with {experts} experts failed")


def losses_of(way, folder, width, layers, experts, steps, clock):
    if way in (OURS, LEAN):
        return run_ours(folder, width, layers, experts, steps, clock, lean=way == LEAN)
    return {GRAPH: run_graph, PEER: run_peer}[way](folder, width, layers, experts, steps, clock)


def one(way: str, folder: Path, width: int, layers: int, experts: int, steps: int) -> None:
    losses_of(way, folder / "tiny", *TINY, 1, Clock())  # what is imported late is no part of the peak
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    clock = Clock()
    losses = losses_of(way, folder, width, layers, experts, steps, clock)
    times = clock.steps()[1:]
    wall, busy = (sorted(each[i] for each in times)[len(times) // 2] for i in (0, 1))
    print(json.dumps([way, experts, resident("VmHWM") - before, wall, busy, losses]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--peer", default=".venv-peer/bin/python")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", nargs="+", metavar="FOLDER WAY")
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve[1:], Path(asked.serve[0]), asked)
        return
    groups = [(sys.executable, [OURS, LEAN, GRAPH])]
    if Path(asked.peer).exists():
        groups.append((str(Path(asked.peer).absolute()), [PEER]))
    found: dict[tuple[str, int], list] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tiny").mkdir()
        generate(Path(folder) / "tiny", *TINY)
        size = generate(Path(folder), asked.width, asked.layers, max(asked.experts))
        more = [f"--{name}={getattr(asked, name)}" for name in ("width", "layers", "steps")]
        for python, ways in groups:
            words = [python, __file__, *more, "--experts", *map(str, asked.experts)]
            words += ["--serve", folder, *ways]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout or ():
                    if line.startswith("["):
                        way, experts, *told = json.loads(line)
                        found[way, experts] = told
                        print(line, end="", file=sys.stderr, flush=True)
            if process.returncode:
                raise SystemExit(f"{python} failed")
    text = report(found, [way for _, ways in groups for way in ways], asked, size)
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


def report(found: dict, ways: list[str], asked: argparse.Namespace, size: int) -> str:
    model, counts = 4 * size, asked.experts
    lines = [
        "# Coefficients by gradient: memory and time",
        "",
        f"    OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/coefficients.py "
        f"--width {asked.width} --layers {asked.layers} --steps {asked.steps}",
        "",
        f"{size / 1e6:.1f} million parameters ({model / 1e6:.0f} MB a model, float32), layer-wise "
        f"AdaMerging on two tasks of {BATCH} inputs of {LENGTH} tokens a step; {platform.machine()}, "
        f"torch {torch.__version__}. Medians of {asked.steps - 1} steps. The loaded model is counted.",
    ]
    for title, place, shown in (
        ("Peak memory above imports, in models", 0, lambda v: f"{v / model:.2f}"),
        ("Seconds per step", 1, lambda v: f"{v:.2f}"),
        ("Processor seconds per step", 2, lambda v: f"{v:.2f}"),
    ):
        lines += ["", f"## {title}", "", f"| way | {' | '.join(f'K = {k}' for k in counts)} |"]
        lines.append("|---" * (len(counts) + 1) + "|")
        for way in ways:
            cells = " | ".join(shown(found[way, k][place]) for k in counts)
            lines.append(f"| {way} | {cells} |")
    low, high = min(counts), max(counts)
    lines += ["", "## Limits", ""]
    for way in ways:
        ratio = found[way, high][0] / found[way, low][0]
        gap = max(
            abs(a - b) for k in counts for a, b in zip(found[way, k][3], found[GRAPH, k][3], strict=True)
        )
        lines.append(
            f"- {way}: memory at K = {high} is {ratio:.2f} of that at K = {low}; the losses differ from "
            f"those of K vectors in the graph by {gap:.1e} at most."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
