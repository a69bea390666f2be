"""Small models with their fine-tunes and adapters, made here."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def bert(kind="BertModel", seed=0):
    import transformers

    torch.manual_seed(seed)
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=40,
        max_position_embeddings=12,
        num_labels=3,
    )
    return getattr(transformers, kind)(config)


def gpt2(kind="GPT2Model"):
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=30, n_positions=8, num_labels=3, pad_token_id=0
    )
    return getattr(transformers, kind)(config)


def fine_tune(model, folder, *, rank=3, seed=7, noise=0.02, touch=lambda name: True):
    """Save the model and a fine-tune: matrices move by a low rank and noise, the rest by noise."""
    model.save_pretrained(folder / "base")
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if not touch(name):
                continue
            if parameter.ndim == 2:
                rows, columns = parameter.shape
                parameter += normal(rows, rank) @ normal(rank, columns) * 0.1
            parameter += normal(*parameter.shape) * noise
    tuned.save_pretrained(folder / "expert")
    return folder / "base", folder / "expert"


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def adapter(model, folder, *, seed=1, **options):
    """Train an adapter on nothing: every trainable number random. Return its merged state dict."""
    import peft

    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6} | options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(copy.deepcopy(model), config)
        generator = torch.Generator().manual_seed(seed)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        tuned.save_pretrained(folder, save_embedding_layers=False)
    return {name: t.clone() for name, t in tuned.merge_and_unload().state_dict().items()}


def peft_loaded(model, folder):
    """Load an adapter with peft; a key that finds no place is an error."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*(missing|unexpected).*")
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def peft_merged(model, folder):
    """Return the state dict of the model that peft merges an adapter into."""
    return peft_loaded(model, folder).merge_and_unload().state_dict()


def config_of(folder):
    return json.loads((Path(folder) / "adapter_config.json").read_text())


def raw_base(folder, tensors):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def raw_adapter(folder, tensors, **config):
    folder.mkdir(parents=True)
    save_file(
        {f"base_model.model.{k}": v.contiguous() for k, v in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    table = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["x"]} | config
    (folder / "adapter_config.json").write_text(json.dumps(table))
    return folder
