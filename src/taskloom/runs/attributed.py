"""Rankings by feature attributions: which words sources look at, and which a model of the target."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.choose.attribution import jaccard, top_words, weight_cosine, word_weights
from taskloom.choose.rank import Ranked, Ranking
from taskloom.errors import DataError
from taskloom.evaluation.data import Inputs, TaskData
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress
from taskloom.runs.beside import Beside, own_head
from taskloom.runs.candidates import read_all
from taskloom.store.pool import Expert, Pool

Array = NDArray[Any]
#: every score of this file
ATTRIBUTED = ("attribution_overlap", "attribution_cosine")
#: words of each task that are compared by ``attribution_overlap``
TOP = 100
#: texts of each task that are looked at, and how many at a time
TEXTS, _BATCH = 200, 32


def by_attributions(
    score: str,
    pool: Pool,
    encoder: Encoder,
    target: Expert,
    data: TaskData,
    beside: Beside,
    progress: Progress,
) -> Ranking:
    """Rank sources by how much they look at the same words as a model of the target.

    Each model runs on texts of its own task under its own head. ``attribution_overlap`` is the Jaccard
    index of the words they look at most, ``attribution_cosine`` the cosine over all words.

    Raises
    ------
    DataError
        Images, or a model without a head, or a source of which nobody knows the task.
    """
    begun = time.perf_counter()
    wanted = _weights(encoder, target, own_head(target, data.task.name), data)
    values = {}
    for number, expert in enumerate(pool.experts, start=1):
        own = beside.task_of(expert.name)
        if own is None:
            raise DataError(
                f"expert {expert.name!r}: {score} looks at texts of the source's task, and nobody knows "
                "which it is",
                hint="Say it with --trained-on NAME=TASK",
            )
        found = _weights(encoder, expert, beside.head_of(expert.name), own)
        values[expert.name] = (
            jaccard(top_words(found, TOP), top_words(wanted, TOP))
            if score == "attribution_overlap"
            else weight_cosine(found, wanted)
        )
        progress("attribute answers to words", number, len(pool.experts))
    order = sorted(values.items(), key=lambda pair: -pair[1])
    entries = tuple(Ranked(name, value, place) for place, (name, value) in enumerate(order, start=1))
    return Ranking(score, entries, time.perf_counter() - begun)


def _weights(encoder: Encoder, expert: Expert, head: Head | None, data: TaskData) -> Array:
    if head is None:
        raise DataError(
            f"expert {expert.name!r}: attributions are of the answers of a head, and there is none",
            hint="Give a model with its head in heads/, as taskloom train writes it",
        )
    texts = data.train.take(np.arange(min(len(data.train), TEXTS))).inputs
    tokens, given = attributions(encoder, read_all(expert.checkpoint), head, texts)
    size = int(getattr(encoder.module, "config").vocab_size)  # noqa: B009 - mypy knows no config
    return word_weights(tokens, given, size)


def attributions(
    encoder: Encoder, weights: Any, head: Head, texts: Inputs
) -> tuple[list[Array], list[Array]]:
    """Return the words of every text and what each contributes to the model's answer.

    Gradient times input: the inner product of a word's embedding with the gradient, by it, of the
    largest logit. Special tokens count as words.

    Raises
    ------
    DataError
        Images.
    """
    if not isinstance(texts, list):
        raise DataError("attribution: expected texts, found arrays", hint="Choose among text tasks")
    module: Any = encoder.module
    kept: list[Tensor] = []

    def keep(layer: Any, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    words: list[Array] = []
    found: list[Array] = []
    matrix, shift = torch.from_numpy(head.weight), torch.from_numpy(head.bias)
    hook = module.get_input_embeddings().register_forward_hook(keep)
    try:
        for start in range(0, len(texts), _BATCH):
            batch = encoder.batch(texts[start : start + _BATCH])
            kept.clear()
            with torch.enable_grad():
                logits = encoder.pooled(batch, weights) @ matrix.T + shift
                (gradient,) = torch.autograd.grad(logits.max(1).values.sum(), kept[-1])
            given = (gradient * kept[-1]).sum(2).detach().numpy()
            for ids, row, mask in zip(
                batch["input_ids"].numpy(), given, batch["attention_mask"].numpy(), strict=True
            ):
                words.append(ids[mask > 0])
                found.append(row[mask > 0])
    finally:
        hook.remove()
    return words, found
