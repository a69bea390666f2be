"""Very small real models, built here so that no test downloads anything."""

import json
from pathlib import Path

import numpy as np
import torch

WORDS = ("good bad fine poor film plot ball goal team game vote law the a is was of it very not").split()  # noqa: SIM905 - easier to read


def tiny_bert(folder: Path, *, seed=0, pooler=False, layers=2, dropout=0.1, settings=None) -> Path:
    """Write a BERT of 16 dimensions with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config, add_pooling_layer=pooler).save_pretrained(folder)
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    if settings is not None:
        (folder / "taskloom_encoder.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def tiny_resnet(folder: Path, *, seed=0, pictures=None) -> Path:
    """Write a ResNet of 8 channels for pictures of one, its batch norm that of (N, H, W) pictures."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(seed)
    config = ResNetConfig(
        num_channels=1, embedding_size=6, hidden_sizes=[6, 8], depths=[1, 1], layer_type="basic"
    )
    module = ResNetModel(config)
    if pictures is not None:
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
        with torch.no_grad():
            module.train()(torch.from_numpy(np.asarray(pictures, dtype=np.float32))[:, None])
    module.eval().save_pretrained(folder)
    settings = {"modality": "image", "pooling": "mean"}
    (folder / "taskloom_encoder.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def texts(n, *, seed=0):
    """Return n texts of two kinds and their labels: sport words (1) or court words (0)."""
    rng = np.random.default_rng(seed)
    kinds = (["film", "plot", "vote", "law"], ["ball", "goal", "team", "game"])
    labels = np.arange(n) % 2
    filler = ["the", "a", "is", "was", "of", "it"]
    found = []
    for label in labels:
        words = [*rng.choice(kinds[label], 2), *rng.choice(filler, rng.integers(1, 8))]
        found.append(" ".join(rng.permutation(words)))
    return found, labels
