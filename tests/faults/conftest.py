"""Toy models on disk, their merge by flags and by a mergekit file, and what a fault must leave."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from taskloom.cli.main import invoke

NAMES = ("base", "one", "two")
#: every tensor of a toy model
SHAPES = {
    "model.embed_tokens.weight": (12, 4),
    "model.layers.0.mlp.up_proj.weight": (8, 4),
    "model.layers.0.mlp.down_proj.weight": (4, 8),
    "model.norm.weight": (4,),
    "lm_head.weight": (12, 4),
}
UP = "model.layers.0.mlp.up_proj.weight"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "vocab_size": 12,
    "tie_word_embeddings": False,
}


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def raw_file(path: Path, table: object, data: bytes = b"", *, length: int | None = None) -> None:
    """Write a safetensors file whose header is ``table`` (text or JSON-ready), true or not."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


@dataclass
class Bench:
    """Models in ``root`` and the merge of all into ``root/out``."""

    root: Path
    how: str
    say: object

    @property
    def out(self) -> Path:
        return self.root / "out"

    def file(self, name: str) -> Path:
        return self.root / name / "model.safetensors"

    def edit(self, name: str, **changes) -> None:
        """Replace, add or (None) drop tensors; names with underscores for dots."""
        held = load_file(self.file(name))
        for key, value in changes.items():
            if value is None:
                del held[key]
            else:
                held[key] = value
        save_file(held, self.file(name))

    def words(
        self, *more: object, method: str = "task_arithmetic", out: Path | None = None
    ) -> list[str]:
        target = self.out if out is None else out
        if self.how == "yaml":
            recipe = self.root / "recipe.yaml"
            recipe.write_text(
                f"merge_method: {method}\nbase_model: {self.root / 'base'}\nmodels:\n"
                + "".join(
                    f"  - {{model: {self.root / n}, parameters: {{weight: 0.5}}}}\n" for n in NAMES[1:]
                )
            )
            return ["merge", str(recipe), str(target), *map(str, more)]
        experts = [word for n in NAMES[1:] for word in ("--expert", str(self.root / n))]
        return [
            *("merge", "--base", str(self.root / "base"), *experts, "--method", method),
            *("-o", str(target), *map(str, more)),
        ]

    def merge(self, *more: object, **options) -> tuple[int, str, str]:
        return self.run(*self.words(*more, **options))

    def run(self, *words: object) -> tuple[int, str, str]:
        status = invoke([str(word) for word in words])
        said = self.say.readouterr()
        return status, said.out, said.err

    def refused(self, status: int, *parts: str, words: list[str] | None = None) -> str:
        """Merge; expect one line that holds all ``parts``, the exit code, and nothing left."""
        before = sorted(self.root.rglob("*"))
        before = [each for each in before if each.name != "recipe.yaml"]
        found, out, err = self.run(*(self.words() if words is None else words))
        assert found == status, err
        assert out == ""
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
        for part in parts:
            assert part in err, err
        after = [each for each in sorted(self.root.rglob("*")) if each.name != "recipe.yaml"]
        assert after == before, "something was left behind"
        return err


@pytest.fixture(params=["flags", "yaml"])
def how(request):
    return request.param


def make(root: Path, how: str, capsys) -> Bench:
    for seed, name in enumerate(NAMES):
        (root / name).mkdir()
        save_file(weights(seed), root / name / "model.safetensors")
        (root / name / "config.json").write_text(json.dumps(CONFIG))
    return Bench(root, how, capsys)


@pytest.fixture
def bench(tmp_path, capsys, how):
    """The merge of both kinds: every test that uses this runs twice."""
    return make(tmp_path, how, capsys)


@pytest.fixture
def flags(tmp_path, capsys):
    return make(tmp_path, "flags", capsys)


@pytest.fixture
def yaml(tmp_path, capsys):
    return make(tmp_path, "yaml", capsys)


@pytest.fixture
def without_root(tmp_path):
    """Whether the file modes of ``tmp_path`` bind this process (they do not bind root)."""
    probe = tmp_path / "probe"
    probe.mkdir(mode=0o555)
    bound = not os.access(probe, os.W_OK)
    probe.rmdir()
    return bound
