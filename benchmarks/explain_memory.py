"""What ``taskloom merge --explain`` says of memory, and what the merge takes, for every method.

    python benchmarks/explain_memory.py [--experts 4] [--threads 2] [--repeat 1] [--only METHOD ...]
        [--output benchmarks/results/explain_memory.md]

Makes random bases of transformer-shaped matrices in bfloat16 and full fine-tunes of them, once, with
the statistics that methods need, and merges them by every registered method, from files into a
directory, each merge in a process of its own.

- "measured" is the peak resident size during the merge above what was resident before it, after a merge
  of a tiny model by the same method: packages, the interpreter and the machine code of kernels are not
  part of it, nor are pages of files in the system's cache.
- "told" is ``memory_bytes`` of ``--explain`` for the same merge and threads.
- Methods that do not decompose matrices are measured on two models, the second four times the first;
  the last column is how much more memory the second took. Those that do, on one small model.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import traceback
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: folder of a model -> (layers, width)
MODELS = {"tiny": (1, 192), "matrix": (1, 768), "small": (2, 768), "large": (8, 768)}
#: options beside the defaults: what works in another way on the model or its tensors
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "ties": [{"scope": "tensor"}],
    "breadcrumbs": [{"scope": "tensor"}],
    "breadcrumbs_ties": [{"scope": "tensor"}],
    "codiemb": [{"scope": "model"}],
    "cabs": [{"m": 32, "n": 4}],
    "emr": [{"task": "expert-1"}],
    "lwptv": [{"host": "ties"}],
    "magnitude_pruning": [{"scope": "model"}],
    "metagpt": [{"scope": "tensor"}],
    "sce": [{"variant": "released"}],
    "tall_masks": [{"task": "expert-1"}, {"over": "ties"}],
    "twin_merging": [{"task": "expert-1"}, {"task": "expert-1", "form": "sparse"}],
}
#: --explain is to be within this share of what is measured
LIMIT = 0.2


def generate(folder: Path, experts: int) -> None:
    """Write every model: a base, experts, and the statistics of each expert."""
    import torch
    from safetensors.torch import save_file

    kinds = needs()
    for model, (layers, width) in MODELS.items():
        generator = torch.Generator().manual_seed(0)
        shapes = {"up": (4 * width, width), "down": (width, 4 * width)}
        shapes |= {f"attention.{n}": (width, width) for n in "qkvo"}
        names = {f"layer.{i}.{n}.weight": s for i in range(layers) for n, s in shapes.items()}
        names |= {f"layer.{i}.{n}.bias": s[:1] for i in range(layers) for n, s in shapes.items()}
        base = {n: torch.randn(s, generator=generator) * 0.02 for n, s in names.items()}
        for number in range(experts + 1):
            target = folder / model / (f"expert-{number}" if number else "base")
            target.mkdir(parents=True)
            noise = 0.002 if number else 0.0
            weights = {
                n: (t + torch.randn(t.shape, generator=generator) * noise).to(torch.bfloat16)
                for n, t in base.items()
            }
            save_file(weights, target / "model.safetensors")
            (target / "config.json").write_text(json.dumps({"model_type": "bert"}))
            for kind, how in kinds.items() if number else ():
                if model != "large" or how == "table":  # others are most of what is read
                    save_statistic(kind, how, base, number, experts, target)


def needs() -> dict[str, str]:
    """Statistic -> how it is kept, of all methods."""
    from taskloom import registry
    from taskloom.merging.recipe import Recipe

    chains = (Recipe.of(entry.name).chain for entry in registry.entries("merge"))
    return {need.kind: need.how for chain in chains for need in chain.needs}


def save_statistic(
    kind: str, how: str, base: Mapping[str, Any], number: int, experts: int, target: Path
) -> None:
    """Write one expert's statistic of one kind."""
    import torch

    from taskloom.store.statistic import Statistic

    generator = torch.Generator().manual_seed(number)
    tensors = {}
    for name, weight in base.items():
        if how == "slice":
            tensors[name] = torch.rand(weight.shape, generator=generator)
        elif how == "whole" and weight.ndim == 2:
            seen = torch.randn((256, weight.shape[1]), generator=generator)
            tensors[name] = seen.T @ seen
    others = [k for k in range(1, experts + 1) if k != number]
    table = {
        "norm": "3.5",
        "layers": json.dumps(dict.fromkeys(base, 0.5)),
        "gaps": json.dumps({f"expert-{k}": 1.0 for k in others}),
    }
    statistic = Statistic.of(kind, tensors, grouping="tensor", **table)
    statistic.save(target / f"{kind}.statistic")


def peak() -> int:
    """Largest resident size since it was last forgotten, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak() -> int:
    """Start the peak anew, and return the resident size now, in bytes (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was let go of before
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def arguments(method: str, given: Mapping[str, Any], where: Path, experts: int) -> dict[str, Any]:
    """Return what both the merge and its explanation take."""
    from taskloom.merging.recipe import Recipe

    chain = Recipe.of(method, **given).chain
    low, high = chain.experts
    count = experts if high is None else min(high, experts)
    names = [f"expert-{k}" for k in range(1, max(low, count) + 1)]
    found: dict[str, Any] = {
        "base": where / "base",
        "experts": {name: where / name for name in names},
        "recipe": method,
        **given,
    }
    if chain.needs:
        kinds = [need.kind for need in chain.needs]
        found["statistics"] = {n: [where / n / f"{kind}.statistic" for kind in kinds] for n in names}
    return found


def child(
    method: str, given: dict[str, Any], folder: Path, model: str, experts: int, threads: int
) -> dict[str, Any]:
    """Merge once, after a tiny model, and return what was told and measured."""
    import taskloom
    from taskloom.merging.explain import explain

    def merge(where: Path, threads: int) -> None:
        taskloom.merge_files(
            **arguments(method, given, where, experts),
            output=where / "out",
            overwrite=True,
            digests="none",
            threads=threads,
        )

    # in this thread: of what others take and let go of, the allocator keeps some, and uses it again
    merge(folder / "tiny", 1)
    told = explain(**arguments(method, given, folder / model, experts), threads=threads)
    before = forget_peak()
    merge(folder / model, threads)
    measured = peak() - before
    grain = max((g["grain"] for g in told["groups"]), key=GRAINS.index)
    return {"told": told["memory_bytes"], "measured": measured, "grain": grain}


def in_child(*asked: Any) -> dict[str, Any]:
    """Return what `child` does, in a process of its own: a copy of this one, which merges nothing."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.write(writer, json.dumps(child(*asked)).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"{asked}: the merge ended with {os.waitstatus_to_exitcode(status)}")
    found: dict[str, Any] = json.loads(said)
    return found


GRAINS = ["element", "row", "tensor", "matrix"]


#: method, options, models
Case = tuple[str, dict[str, Any], list[str]]


def plan(only: list[str] | None) -> tuple[list[Case], list[str]]:
    """Return method, options and models of every case, and the methods that have none."""
    from taskloom import registry
    from taskloom.algebra import Grain
    from taskloom.merging.recipe import Recipe

    cases, without = [], []
    for entry in registry.entries("merge"):
        if only is not None and entry.name not in only:
            continue
        for given in [{}, *VARIANTS.get(entry.name, [])]:
            chain = Recipe.of(entry.name, **given).chain
            if chain.space == "factors":
                without.append(entry.name)
                continue
            several = ["small", "large"]
            if any(need.how != "table" for need in chain.needs):
                several = ["matrix", "small"]
            cases.append((entry.name, given, ["matrix"] if chain.grain == Grain.MATRIX else several))
    return cases, without


def main() -> None:
    """Measure every method and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1, help="Runs of each; the largest peak counts.")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--folder", type=Path, help="Keep the models here, and use those that are.")
    parser.add_argument("--output", type=Path, help="Write the page here, and not only to the screen.")
    options = parser.parse_args()
    import torch  # before the processes are copied

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temp:
        folder = options.folder or Path(temp)
        if not (folder / "large").exists():
            generate(folder, options.experts)
        rows, without = [], []
        cases, without = plan(options.only)
        for method, given, models in cases:
            found = {}
            for model in models:
                asked = method, given, folder, model, options.experts, options.threads
                runs = [in_child(*asked) for _ in range(options.repeat)]
                found[model] = max(runs, key=lambda run: run["measured"])
            rows.append((method, given, found))
            print(row(*rows[-1]), file=sys.stderr, flush=True)
    page = table(rows, without, options)
    print(page)
    if options.output:
        options.output.write_text(page, encoding="utf-8")


def row(method: str, given: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """Return one line of the table: of the largest model, and how it grew."""
    models = list(found)
    last, first = found[models[-1]], found[models[0]]
    share = last["told"] / last["measured"]
    missed = "" if abs(share - 1) <= LIMIT else ", MISSED"
    grown = f"{last['measured'] / first['measured']:.2f}" if len(models) > 1 else "-"
    other = f"{first['told'] / first['measured']:.2f}" if len(models) > 1 else "-"
    said = ", ".join(f"{name}={value}" for name, value in given.items())
    return (
        f"| {method} | {said} | {last['grain']} | {', '.join(models)} | {last['measured'] / 1e6:.1f} "
        f"| {last['told'] / 1e6:.1f} | {share:.2f}{missed} | {other} | {grown} |"
    )


def table(rows: list[Any], without: list[str], options: argparse.Namespace) -> str:
    """Return the page."""
    counts = {name: layers * 12 * width**2 / 1e6 for name, (layers, width) in MODELS.items()}
    shares = [f["told"] / f["measured"] for _, _, found in rows for f in list(found.values())[-1:]]
    inside = sum(abs(share - 1) <= LIMIT for share in shares)
    lines = [
        "# Memory that `--explain` tells, and memory that was measured",
        "",
        "    python benchmarks/explain_memory.py"
        f" --experts {options.experts} --threads {options.threads} --repeat {options.repeat}",
        "",
        f"{options.experts} experts in bfloat16 (fewer where a method takes fewer), {options.threads} "
        "threads, each merge in a process of its own; models of "
        + ", ".join(f"{count:.1f} ({name})" for name, count in counts.items() if name != "tiny")
        + " million parameters.",
        f"{os.cpu_count()} cores ({platform.machine()}), torch {version('torch')}, "
        f"numba {version('numba')}.",
        "",
        f"{inside} of {len(shares)} rows are within {LIMIT:.0%} (told / measured, of the last model): "
        f"{min(shares):.2f} to {max(shares):.2f}, median {statistics.median(shares):.2f}.",
        "",
        "| method | options | grain | models | measured (MB) | told (MB) | told / measured "
        "| of the first model | memory of the last / first |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(*each) for each in rows),
    ]
    if without:
        lines += [
            "",
            f"Without a row: {', '.join(sorted(set(without)))}: they merge factors of adapters into an "
            "adapter, and `--explain` is about merges into models.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
