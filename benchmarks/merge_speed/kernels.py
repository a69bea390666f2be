"""Task arithmetic of three bf16 experts in memory: torch slices, numpy slices, and the fused kernels.

    python benchmarks/merge_speed/kernels.py

One thread; nanoseconds of processor time per number of the output, the least of nine runs, and the
processor seconds of importing what each needs. Writes benchmarks/results/merge_kernels.md.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from table import machine

from taskloom.merging import fused
from taskloom.merging.program import Output, program_of
from taskloom.merging.recipe import Recipe
from taskloom.store.pool import open_pool

COUNT, EXPERTS = 1 << 22, 3
FILE = Path(__file__).resolve().parent.parent / "results" / "merge_kernels.md"


def best(work: Callable[[], object]) -> float:
    """Return nanoseconds of processor time per number."""
    work()
    taken = []
    for _ in range(9):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken) / COUNT * 1e9


def by_torch(sources: list[torch.Tensor], size: int) -> torch.Tensor:
    """Merge slice by slice with torch; the base is last."""
    out = torch.empty(COUNT, dtype=torch.bfloat16)
    for at in range(0, COUNT, size):
        base = sources[-1][at : at + size].float()
        total = sources[0][at : at + size].float() - base
        for source in sources[1:-1]:
            total += source[at : at + size].float() - base
        out[at : at + size] = base + total * 0.3
    return out


def by_numpy(sources: list[NDArray[np.uint16]], size: int) -> NDArray[np.uint16]:
    """Merge slice by slice with numpy, bf16 as the high half of float32."""
    out = np.empty(COUNT, np.uint16)
    for at in range(0, COUNT, size):
        wide = [(s[at : at + size].astype(np.uint32) << 16).view(np.float32) for s in sources]
        total = wide[0] - wide[-1]
        for each in wide[1:-1]:
            total += each - wide[-1]
        total *= np.float32(0.3)
        total += wide[-1]
        bits = total.view(np.uint32)
        out[at : at + size] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return out


def by_kernels(
    sources: list[NDArray[np.uint16]], size: int, output: Output, arena: fused.Arena
) -> NDArray[np.uint16]:
    """Merge slice by slice with the fused kernels, with the copies into and out of their buffers."""
    out, made = np.empty(COUNT, np.uint16), fused.compile_output(output, {})
    for at in range(0, COUNT, size):
        for k, source in enumerate(sources):
            arena.raw16[k, :size] = source[at : at + size]
        arena.merge(output, made, size, at)
        out[at : at + size] = arena.out16[:size]
    return out


def import_seconds(what: str) -> float:
    """Return the processor seconds of a Python that imports a module, the least of five."""
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", f"import {what}"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def main() -> None:
    """Measure and write the table."""
    if len(sys.argv) != 2:
        sys.exit("usage: kernels.py DIR (a folder that make.py made, of any size, with three experts)")
    data = Path(sys.argv[1])
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(COUNT, generator=generator) * 0.02
    experts = [base + torch.randn(COUNT, generator=generator) * 0.002 for _ in range(EXPERTS)]
    tensors = [each.bfloat16() for each in [*experts, base]]
    arrays = [each.view(torch.uint16).numpy() for each in tensors]
    expected = by_torch(tensors, COUNT).view(torch.uint16).numpy()
    pool = open_pool(data / "base", [data / f"e{k}" for k in range(1, EXPERTS + 1)])
    program = program_of(pool, Recipe.of("task_arithmetic").chain)
    output = max(program.outputs, key=lambda o: o.info.numel)
    arena = fused.Arena(len(arrays), COUNT, 0)
    rows = []
    for size in (1 << 14, 1 << 16, 1 << 18, 1 << 22):
        for name, work in {
            "torch": lambda size=size: by_torch(tensors, size).view(torch.uint16).numpy(),
            "numpy": lambda size=size: by_numpy(arrays, size),
            "fused kernels (numba)": lambda size=size: by_kernels(arrays, size, output, arena),
        }.items():
            if not np.array_equal(work(), expected):
                sys.exit(f"{name} gives other bytes")
            rows.append((name, size, best(work)))
    imports = [
        f"| {what} | {import_seconds(what):.2f} |"
        for what in ("numpy", "torch", "taskloom.merging.blocks")
    ]
    FILE.write_text(
        f"# Kernels of merges\n\n`python benchmarks/merge_speed/kernels.py DIR`\n\n{machine()}\n\n"
        "Task arithmetic of three bf16 experts in memory, one thread, the same bytes from all; "
        "processor time, least of nine.\n\n"
        "| | numbers in a slice | ns per number |\n| --- | --- | --- |\n"
        + "\n".join(f"| {name} | {size:,} | {taken:.2f} |" for name, size, taken in sorted(rows))
        + "\n\n| import (with numba: of compiled kernels) | processor seconds |\n| --- | --- |\n"
        + "\n".join(imports)
        + "\n"
    )
    print(FILE.read_text())


if __name__ == "__main__":
    main()
