"""Tiny random Llamas and BERTs on disk, and YAML that names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from taskloom.runs.mergekit.api import merge_mergekit
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

VOCABULARY = 40


def llama(
    folder: Path, *, seed: int, layers: int = 3, tied: bool = False, near: Path | None = None, **more
):
    """Write a Llama of 16 dimensions; ``near`` makes it a small change of that one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=more.pop("vocab_size", VOCABULARY),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        **more,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    if near is not None:
        origin = LlamaForCausalLM.from_pretrained(near).state_dict()
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.copy_(origin[name] + 0.05 * torch.randn(value.shape))
    model.save_pretrained(folder)
    return folder


def bert(folder: Path, *, seed: int, layers: int = 2, labels: int = 2):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=16,
        num_labels=labels,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Path:
    """Folder with base, a, b, c (Llamas of 3 layers), deep (5 layers), tied, bert-a, bert-b."""
    folder = tmp_path_factory.mktemp("zoo")
    base = llama(folder / "base", seed=0)
    for seed, name in enumerate("abc", start=1):
        llama(folder / name, seed=seed, near=base)
    llama(folder / "deep", seed=5, layers=5)
    llama(folder / "tied", seed=6, tied=True)
    for seed, name in enumerate(("bert-a", "bert-b")):
        bert(folder / name, seed=seed)
    return folder


@dataclass(frozen=True)
class Bench:
    """Runs YAML, given as text or data with bare model names, and reads tensors."""

    zoo: Path
    folder: Path

    def write(self, config: dict | str, name: str = "merge.yaml") -> Path:
        text = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False)
        data = [self._named(part) for part in yaml.safe_load_all(text)]
        path = self.folder / name
        path.write_text(yaml.safe_dump_all(data, sort_keys=False))
        return path

    def _named(self, value):
        if isinstance(value, dict):
            keys = ("model", "base_model")
            return {
                k: str(self.zoo / v)
                if k in keys and isinstance(v, str) and (self.zoo / v.split("+")[0]).is_dir()
                else self._named(v)
                for k, v in value.items()
            }
        return [self._named(v) for v in value] if isinstance(value, list) else value

    def merge(self, config: dict | str, out: str = "out", **options) -> dict[str, torch.Tensor]:
        report = merge_mergekit(self.write(config), self.folder / out, **options)
        return self.tensors(report.path)

    def tensors(self, path) -> dict[str, torch.Tensor]:
        opened = SafetensorsCheckpoint(self.zoo / path)
        return {name: opened.read(name) for name in opened.tensors}


@pytest.fixture
def bench(zoo, tmp_path) -> Bench:
    return Bench(zoo, tmp_path)
