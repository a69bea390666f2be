"""The vectors of a hidden layer, one for every token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.errors import DataError, NumericalError, PlanError
from taskloom.models.encoder import Encoder


def token_vectors(
    encoder: Encoder, texts: Sequence[str], *, layer: int, batch_size: int = 64
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield batches of texts as the vectors that a hidden layer has for their tokens.

    Texts of like length come together, so batches are not in the order of the texts.

    Parameters
    ----------
    layer
        0 is the embeddings, L the last of L layers.

    Yields
    ------
    tuple
        For every token the number of its text ``(T,)``, ascending within the batch's order, and its
        vector ``(T, D)`` float32. Special tokens are among them, padding is not.

    Raises
    ------
    PlanError
        There is no such layer.
    DataError
        The model is none of texts, or names no hidden layers.
    NumericalError
        NaN or infinity.
    """
    count = getattr(encoder.module.config, "num_hidden_layers", None)
    if encoder.modality != "text" or not isinstance(count, int):
        raise DataError(
            f"{encoder.directory}: expected a transformer of texts, found {encoder.modality}",
            hint="Give an encoder of texts",
        )
    if not 0 <= layer <= count:
        raise PlanError(f"{encoder.directory}: layer {layer}, expected 0 to {count}")
    encoder.module.eval()
    encoded = encoder.encode(list(texts))
    order = np.argsort(-encoded.lengths, kind="stable")
    with torch.inference_mode():
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            batch = encoded.batch(rows)
            hidden = encoder.module(**batch, output_hidden_states=True).hidden_states[layer]
            seen = batch["attention_mask"].bool()
            vectors = hidden[seen].float().numpy()
            if not np.isfinite(vectors).all():
                raise NumericalError(
                    f"{encoder.directory}: layer {layer} holds NaN or infinity",
                    hint="Check the weights, or take another layer",
                )
            yield np.repeat(rows, seen.sum(1).numpy()), vectors
