"""Merging adapters: into a full model (dense), into an adapter (low-rank), by way of full models.

    python benchmarks/lowrank_merge.py [--recipe task_arithmetic] [--layers 14] [--experts 8]
        [--rank 16] [--repeat 3]

Makes a random base of transformer-shaped matrices and LoRA adapters of all of them, merges them by
one method along each route that it has in a process of its own, in turn, and prints seconds (medians),
peak memory above the imports, what was written, and how far the results are from each other.

- "dense": the adapters go into the merge as they are; their rows are multiplied out slice by slice, and
  a full model is written.
- "low-rank": an adapter is written, and no full matrix is made.
- "full models first": every adapter is applied to the base and written as a full model, and these are
  merged.

Seconds, of the clock and of the processors (all threads), are of the call, in a process that has
imported the package and merged nothing; "whole process" has the imports as well. Digests of inputs
are left out (``digests="output"``) on all routes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

WIDTH, INNER = 768, 3072
SHAPES = {
    **{f"attention.{n}": (WIDTH, WIDTH) for n in "qkvo"},
    "up": (INNER, WIDTH),
    "down": (WIDTH, INNER),
}

#: routes of a method; all others have no low-rank one, because their result has no low rank
FIRST = "full models first"
ROUTES = {
    "task_arithmetic": ["dense", "low-rank, exact", "low-rank, compressed", FIRST],
    "knots": ["dense", "low-rank, exact"],
    "copa_merging": ["low-rank, exact"],
}


def generate(folder: Path, layers: int, experts: int, rank: int) -> int:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, std):
        return torch.randn(*shape, generator=generator) * std

    modules = {f"layer.{i}.{name}": shape for i in range(layers) for name, shape in SHAPES.items()}
    (folder / "base").mkdir()
    base = {f"{name}.weight": normal(*shape, std=0.02) for name, shape in modules.items()}
    save_file(base, folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    for number in range(experts):
        adapter = folder / f"expert-{number}"
        adapter.mkdir()
        factors = {}
        for name, (rows, columns) in modules.items():
            factors[f"base_model.model.{name}.lora_A.weight"] = normal(rank, columns, std=0.03)
            factors[f"base_model.model.{name}.lora_B.weight"] = normal(rows, rank, std=0.03)
        save_file(factors, adapter / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(modules)}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
    return sum(t.numel() for t in base.values())


def peak() -> int:
    """Largest resident size since this program was started, in bytes (Linux).

    The figure of getrusage would include what the parent held when it forked.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def merge(route: str, folder: Path, experts: int, rank: int, recipe: str) -> None:
    """Child process: one merge, timed."""
    import taskloom
    import taskloom.merging.api
    import taskloom.merging.lowrank

    sources = [folder / f"expert-{number}" for number in range(experts)]
    before = peak()
    begun, worked = time.perf_counter(), time.process_time()
    if route in ("dense", FIRST):
        if route == FIRST:
            sources = [materialise(folder, source) for source in sources]
        report = taskloom.merge_files(
            folder / "base", sources, recipe, folder / route, overwrite=True, digests="output"
        )
        written = sum(f.stat().st_size for f in report.path.glob("*.safetensors"))
        error = 0.0
    else:
        target = rank if route == "low-rank, compressed" else None
        made = taskloom.merge_adapters(
            folder / "base", sources, recipe, folder / route, rank=target, overwrite=True
        )
        written, error = made.adapter_bytes, made.error
    taken = {
        "seconds": time.perf_counter() - begun,
        "processor": time.process_time() - worked,
        "memory": peak() - before,
    }
    print(json.dumps({**taken, "written": written, "error": error}))


def materialise(folder: Path, adapter: Path) -> Path:
    """Write an adapter on its base as a full model."""
    from taskloom.store.open import open_checkpoint
    from taskloom.store.writer import write_model

    made = open_checkpoint(adapter, base=open_checkpoint(folder / "base"))
    tensors = ((name, made.read(name)) for name in made.tensors)
    target = folder / "full" / adapter.name
    write_model(target, infos=made.tensors, tensors=tensors, template=folder / "base", overwrite=True)
    return target


def difference(folder: Path, route: str) -> tuple[float, float]:
    """Largest difference, and Frobenius norm of the difference by that of the merged change."""
    from taskloom.store.open import open_checkpoint

    base, dense = open_checkpoint(folder / "base"), open_checkpoint(folder / "dense")
    adapted = open_checkpoint(folder / route, base=None if route == FIRST else base)
    largest, apart, norm = 0.0, 0.0, 0.0
    for name in base.tensors:
        wanted = dense.read(name)
        gap = adapted.read(name) - wanted
        largest = max(largest, float(gap.abs().max()))
        apart += float(gap.square().sum(dtype=torch.float64))
        norm += float((wanted - base.read(name)).square().sum(dtype=torch.float64))
    return largest, (apart / norm) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="task_arithmetic")
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--routes", nargs="+", help="Only these.")
    parser.add_argument("--child", nargs=2, metavar=("ROUTE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        merge(options.child[0], Path(options.child[1]), options.experts, options.rank, options.recipe)
        return
    routes = options.routes or ROUTES.get(options.recipe, ["dense", FIRST])
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        count = generate(folder, options.layers, options.experts, options.rank)
        print(
            f"{count / 1e6:.1f} million parameters, {options.experts} adapters of rank {options.rank}, "
            f"{options.recipe}; medians of {options.repeat} runs in turn\n"
            f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}, "
            f"{torch.get_num_threads()} thread in torch's own operations\n"
        )
        words = ["--experts", str(options.experts), "--rank", str(options.rank)]
        words += ["--recipe", options.recipe]
        runs: dict[str, list[dict[str, float]]] = {route: [] for route in routes}
        for _ in range(options.repeat):
            for route in routes:
                call = [sys.executable, __file__, *words, "--child", route, temp]
                begun = time.perf_counter()
                said = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
                whole = time.perf_counter() - begun
                runs[route].append(json.loads(said) | {"whole": whole})
                print(f"{route}: {runs[route][-1]}", file=sys.stderr)
        middle = {
            route: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for route, found in runs.items()
        }
        dense = middle.get("dense", middle[routes[0]])
        print(
            "| route | seconds | dense / this | processor (s) | dense / this | whole process (s) "
            "| peak memory above imports (MB) | dense / this "
            "| written (MB) | largest difference | relative difference |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for route, got in middle.items():
            compared = route != "dense" and "dense" in routes
            largest, relative = difference(folder, route) if compared else (0.0, 0.0)
            print(
                f"| {route} | {got['seconds']:.2f} | {dense['seconds'] / got['seconds']:.1f} "
                f"| {got['processor']:.2f} | {dense['processor'] / got['processor']:.1f} "
                f"| {got['whole']:.2f} | {got['memory'] / 1e6:.0f} "
                f"| {dense['memory'] / max(got['memory'], 1):.1f} "
                f"| {got['written'] / 1e6:.0f} | {largest:.1e} | {relative:.1e} |"
            )
        if "low-rank, compressed" not in middle:
            return
        error = middle["low-rank, compressed"]["error"]
        print(
            f"\nCompressed to rank {options.rank}, the report's own relative error is {error:.4f}; the "
            "experts are random, so\nno adapter of that rank could be close to their sum (rank "
            f"{options.rank * options.experts})."
        )


if __name__ == "__main__":
    main()
