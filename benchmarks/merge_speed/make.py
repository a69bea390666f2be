"""Llama-like bf16 checkpoints: random base, small deltas.

Run: ``python make.py OUT --size 0.5B --experts 6``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from taskloom.store.checkpoint import TensorInfo
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.writer import write_model

#: hidden, layers, intermediate, vocabulary; heads of 64
SIZES = {"0.5B": (1024, 28, 4096, 32000), "1.5B": (2048, 26, 5632, 32000), "tiny": (128, 2, 256, 1000)}


def llama(size: str) -> tuple[dict[str, TensorInfo], dict]:
    """Return tensors and configuration of a Llama."""
    hidden, layers, inner, vocabulary = SIZES[size]
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i in range(layers):
        at = f"model.layers.{i}."
        for name in ("q", "k", "v", "o"):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (hidden, hidden)
        for name in ("gate", "up"):
            shapes[f"{at}mlp.{name}_proj.weight"] = (inner, hidden)
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{at}input_layernorm.weight"] = (hidden,)
        shapes[f"{at}post_attention_layernorm.weight"] = (hidden,)
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": layers, "intermediate_size": inner, "vocab_size": vocabulary,
        "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048, "hidden_act": "silu",
    }  # fmt: skip
    return {name: TensorInfo(shape, "bfloat16") for name, shape in shapes.items()}, config


def many(count: int = 14403) -> tuple[dict[str, TensorInfo], dict]:
    """As many tensors as a mixture-of-experts model has, of 12 kB on average: a Llama of many layers."""
    layers = (count - 3) // 9
    hidden, inner = 64, 194
    infos, config = {}, llama("tiny")[1] | {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "vocab_size": 1000, "num_attention_heads": 1, "num_key_value_heads": 1,
    }  # fmt: skip
    SIZES["many"] = (hidden, layers, inner, 1000)
    infos, _ = llama("many")
    return infos, config


def tensors(infos: dict[str, TensorInfo], base: SafetensorsCheckpoint | None, seed: int):
    """Yield random weights, or a base and small random changes."""
    generator = torch.Generator().manual_seed(seed)
    for name, info in infos.items():
        noise = torch.randn(info.shape, generator=generator)
        yield name, (noise * 0.02 if base is None else base.read(name) + noise * 0.002).bfloat16()


def make(out: Path, size: str, experts: int) -> None:
    """Write base, e1, e2, ...; those that are there are kept."""
    infos, config = many(int(size[4:] or 14403)) if size.startswith("many") else llama(size)
    print(f"{size}: {sum(i.numel for i in infos.values()):,} parameters, {len(infos)} tensors")
    base = None
    for k in range(experts + 1):
        folder = out / ("base" if k == 0 else f"e{k}")

        def add_config(where: Path) -> None:
            (where / "config.json").write_text(json.dumps(config))

        if not folder.exists():
            write_model(
                folder, infos=infos, tensors=tensors(infos, base, k), template=None, extra=add_config
            )
        base = base or SafetensorsCheckpoint(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=[*SIZES, "many", "many453", "many3603"], default="0.5B")
    parser.add_argument("--experts", type=int, default=3)
    options = parser.parse_args()
    sys.exit(make(options.out, options.size, options.experts))
