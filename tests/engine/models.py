"""Small checkpoints on disk, and what the engine makes of them."""

import mmap

import numpy as np
import torch

from taskloom.merging.engine import Engine, Options
from taskloom.merging.plan import plan_program
from taskloom.merging.program import program_of
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.pool import open_pool
from taskloom.store.writer import write_safetensors

SHAPES = {
    "matrix": (17, 29),
    "cube": (3, 5, 7),
    "vector": (311,),
    "scalar": (),
    "empty": (0, 4),
    "column": (23, 1),
}


def make_weights(seed, dtype=torch.float32, shapes=SHAPES, base=None, coarse=True):
    """Random weights; coarse ones have many ties among their task vectors."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        step = torch.randn(shape, generator=generator)
        if coarse:
            step = torch.round(step * 4) / 4
        made[name] = (step if base is None else base[name].float() + step / 8).to(dtype)
    made["ids"] = torch.arange(5)
    return made


def save(folder, weights):
    folder.mkdir(parents=True)
    infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in weights.items()}
    write_safetensors(folder / "model.safetensors", infos, weights.items(), {"format": "pt"})
    return folder


def save_pool(folder, count=3, dtypes=(torch.bfloat16,), **options):
    """A base and experts on disk, their dtypes taken in turn."""
    base = make_weights(0, dtypes[0], **options)
    paths = [save(folder / "base", base)]
    for k in range(1, count + 1):
        weights = make_weights(k, dtypes[k % len(dtypes)], base=base, **options)
        paths.append(save(folder / f"e{k}", weights))
    return paths[0], paths[1:]


def shared(size):
    """Zeros that forked processes write to as well."""
    return np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8)[:size]


class MemorySink:
    """Collects bytes; every byte must come once."""

    def __init__(self, program):
        infos = program.infos
        self.data = {name: shared(info.nbytes) for name, info in infos.items()}
        self.seen = {name: shared(info.nbytes) for name, info in infos.items()}

    def write(self, name, offset, data):
        found = np.frombuffer(data, np.uint8)
        self.data[name][offset : offset + len(found)] = found
        self.seen[name][offset : offset + len(found)] += 1

    def whole(self):
        return all((seen == 1).all() for seen in self.seen.values())


def run(base, experts, chain, *, dtype=None, slice_bytes=None, statistics=None, **options):
    """Bytes of every output by name."""
    program = program_of(open_pool(base, experts), chain, dtype, statistics)
    plan = plan_program(program, slice_bytes=slice_bytes)
    sink = MemorySink(program)
    with Engine(plan, Options(**options)) as engine:
        statistics = {
            id(c): engine.statistics(c, outputs) for c, outputs in program.groups if c is not None
        }
        engine.run(program.outputs, statistics, sink)
    assert sink.whole()
    return {name: data.tobytes() for name, data in sink.data.items()}
