"""A small pool with the names of a real model, in memory and on disk, and a reader that is watched."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from taskloom.store.memory import MemoryCheckpoint

SHAPES = {
    "bert.embeddings.word_embeddings.weight": (30, 8),
    "bert.embeddings.position_embeddings.weight": (12, 8),
    "bert.embeddings.LayerNorm.weight": (8,),
    **{
        f"bert.encoder.layer.{i}.{name}": shape
        for i in range(3)
        for name, shape in {
            "attention.self.query.weight": (8, 8),
            "attention.self.query.bias": (8,),
            "intermediate.dense.weight": (20, 8),
            "output.dense.weight": (8, 20),
            "output.LayerNorm.weight": (8,),
        }.items()
    },
    "bert.pooler.dense.weight": (8, 8),
    "logit_scale": (),
}
VOCABULARY = [f"word{i}" for i in range(30)]


def base(seed=0, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    return {n: torch.tensor(rng.normal(0, 0.5, s)).to(dtype) for n, s in SHAPES.items()}


def tuned(start, seed, size=0.05, sparse=0.5):
    """Return weights near ``start``: changes of a share of the numbers, growing with the layer."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, value in start.items():
        change = size * rng.normal(size=tuple(value.shape)) * (rng.random(tuple(value.shape)) < sparse)
        found[name] = (value.double() + torch.tensor(change)).to(value.dtype)
    return found


def pool(count=3, dtype=torch.float32):
    start = base(dtype=dtype)
    return start, {name: tuned(start, k + 1) for k, name in enumerate("abcdef"[:count])}


def write(folder, weights, tokens=None):
    folder.mkdir(parents=True)
    save_file({n: v.contiguous() for n, v in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    if tokens is not None:
        table = {"model": {"type": "WordLevel", "vocab": {t: i for i, t in enumerate(tokens)}}}
        (folder / "tokenizer.json").write_text(json.dumps(table))
    return folder


class Watched(MemoryCheckpoint):
    """Remembers the largest read."""

    def __init__(self, source):
        super().__init__(source)
        self.largest, self.read_bytes = 0, 0

    def read(self, name, rows=None):
        found = super().read(name, rows)
        self.largest = max(self.largest, found.numel())
        self.read_bytes += found.numel() * found.element_size()
        return found
