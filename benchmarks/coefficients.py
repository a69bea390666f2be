"""Coefficients by gradient: memory and time beside K vectors in the autograd graph, and FusionBench.

    python benchmarks/coefficients.py [--experts 2 4 8 16] [--width 384] [--layers 6] [--steps 20]
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
Losses are compared at every step, the first among them. The file that ``--out`` names is what `report`
makes of it, whole; as seconds hang on what else the machine does, its load is in there.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call

TOKENS, LENGTH, BATCH, CLASSES, TASKS = 2000, 8, 4, 10, ("a", "b")
#: ten times AdaMerging's rate, so that a few steps make a curve
START, RATE = 0.3, 1e-2
#: width, layers and experts of what is run before anything is counted
TINY = 16, 1, 2
#: what was asked for: most memory by that of the fewest experts, most models, largest gap of a loss
GROWTH, MODELS, SAME = 1.3, 3, 1e-4
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
    parser.add_argument("--steps", type=int, default=20, help="2 at least: the first is not timed")
    parser.add_argument("--peer", default=".venv-peer/bin/python")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", nargs="+", metavar="FOLDER WAY")
    asked = parser.parse_args()
    if asked.steps < 2:
        parser.error(f"--steps is {asked.steps}, and the first step is not timed: give 2 or more")
    if asked.serve:
        serve(asked.serve[1:], Path(asked.serve[0]), asked)
        return
    groups = [(sys.executable, [OURS, LEAN, GRAPH])]
    version, before = "", os.getloadavg()[0]
    if Path(asked.peer).exists():
        python = str(Path(asked.peer).absolute())
        groups.append((python, [PEER]))
        words = [python, "-c", "from importlib.metadata import version; print(version('fusion_bench'))"]
        version = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
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
    machine = Machine(len(os.sched_getaffinity(0)), (before, os.getloadavg()[0]), version)
    text = report(found, [way for _, ways in groups for way in ways], asked, size, machine)
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Machine:
    """What seconds depend on, and the peer.

    Attributes
    ----------
    cores
        Processors that may be used.
    load
        Mean of processes that ran over the minute before the start, and before the end.
    peer
        Version of FusionBench; empty if it was not run.
    """

    cores: int
    load: tuple[float, float]
    peer: str


def report(found: dict, ways: list[str], asked: argparse.Namespace, size: int, machine: Machine) -> str:
    """Return the whole page.

    Parameters
    ----------
    found
        (way, experts) -> bytes at the peak, seconds and processor seconds of a step, loss of every step.
    """
    model, counts = 4 * size, asked.experts
    peer = f" FusionBench is {machine.peer}." if machine.peer else ""
    lines = [
        "# Coefficients by gradient: memory and time",
        "",
        f"    OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/coefficients.py "
        f"--experts {' '.join(map(str, counts))} --width {asked.width} --layers {asked.layers} "
        f"--steps {asked.steps}",
        "",
        f"{size / 1e6:.1f} million parameters ({model / 1e6:.0f} MB a model, float32), layer-wise "
        f"AdaMerging on two tasks of {BATCH} inputs of {LENGTH} tokens a step, {asked.steps} steps at "
        f"rate {RATE:g}; {machine.cores} {platform.machine()} cores, torch {torch.__version__}.{peer} "
        f"Seconds are medians of {asked.steps - 1} steps. Before the start {machine.load[0]:.1f} "
        f"processes ran, before the end {machine.load[1]:.1f}: where that is more than the benchmark's "
        "own threads, seconds on the wall say little, and processor seconds more.",
        "",
        '"Ours" is the fit `adamerging` on a problem as `taskloom fit` makes it. The model that is '
        "loaded is counted everywhere.",
    ]
    for title, place, shown in (
        ("Peak memory, the loaded model included, in models", 0, lambda v: f"{v / model:.2f}"),
        ("Seconds per step", 1, lambda v: f"{v:.2f}"),
        ("Processor seconds per step", 2, lambda v: f"{v:.2f}"),
    ):
        lines += ["", f"## {title}", "", f"| way | {' | '.join(f'K = {k}' for k in counts)} |"]
        lines.append("|---" * (len(counts) + 1) + "|")
        for way in ways:
            cells = " | ".join(shown(found[way, k][place]) for k in counts)
            lines.append(f"| {way} | {cells} |")
    lines += ["", "## Limits", ""]
    for way in ways:
        lines.append(
            f"- {way}: memory at K = {max(counts)} is {growth(found, way, counts):.2f} of that at K = "
            f"{min(counts)}; over all {asked.steps} steps the losses differ from those of K vectors in "
            f"the graph by {gap(found, way, counts):.1e} at most."
        )
    return "\n".join([*lines, "", *verdicts(found, counts, model)]) + "\n"


def growth(found: dict, way: str, counts: list[int]) -> float:
    """Return memory with the most experts by that with the fewest."""
    return found[way, max(counts)][0] / found[way, min(counts)][0]


def gap(found: dict, way: str, counts: list[int]) -> float:
    """Return the largest difference of a loss to that of the graph, over all experts and steps."""
    return max(
        abs(a - b) for k in counts for a, b in zip(found[way, k][3], found[GRAPH, k][3], strict=True)
    )


def verdicts(found: dict, counts: list[int], model: int) -> list[str]:
    """Return what was asked for, whether it is met, and what it costs."""

    def met(ways: list[str], holds: Callable[[str], bool]) -> str:
        return "; ".join(f"{way}: {'met' if holds(way) else 'not met'}" for way in ways)

    mine, high = [OURS, LEAN], max(counts)
    memory = met(
        mine,
        lambda way: (
            growth(found, way, counts) <= GROWTH
            and max(found[way, k][0] for k in counts) <= MODELS * model
        ),
    )
    losses = met(mine, lambda way: gap(found, way, counts) <= SAME)
    curve = found[OURS, high][3]
    times = ", ".join(f"{way} {found[way, high][2] / found[GRAPH, high][2]:.1f}" for way in mine)
    return [
        f"Asked for: memory that grows by a factor of {GROWTH:g} at most and stays within {MODELS:g} "
        f"models ({memory}), the same loss curve to {SAME:.0e} ({losses}).",
        "",
        f"At K = {high} the loss goes from {curve[0]:.4f} to {curve[-1]:.4f}. A step there takes, in "
        f"processor seconds of the graph's: {times}.",
    ]


if __name__ == "__main__":
    main()
