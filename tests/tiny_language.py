"""A very small language model with a word-level tokenizer, built here so that nothing is downloaded."""

from pathlib import Path

import torch

WORDS = ("red blue one two three say count left right up down : . ?").split()  # noqa: SIM905 - easier to read


def tiny_llama(folder: Path, *, seed=0, tied=True, positions=32) -> Path:
    """Write a Llama of 16 dimensions and two blocks."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = ["<unk>", "<end>", *WORDS]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        initializer_range=0.2,
        eos_token_id=1,
        bos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # large enough for 16 dimensions to tell tokens apart
        model.get_input_embeddings().weight.mul_(4)
    model.save_pretrained(folder)
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<end>").save_pretrained(
        folder
    )
    return folder
