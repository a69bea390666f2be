"""Which rows of the embeddings changed, by the token they belong to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taskloom.choose.diff.result import ChangedRows, Row
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.pool import Pool

#: last part of a module's name that holds one row per token, position or type
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^shared$|^lm_head$|^decoder$|^output$", re.IGNORECASE)
#: one row per position or type, hence without tokens
_NO_TOKENS = re.compile(r"position|^wpe$|token_type|segment|patch", re.IGNORECASE)


def is_embedding(name: str, info: TensorInfo) -> bool:
    """Tell whether a tensor has one row per token, position or type, by its name and shape.

    >>> info = TensorInfo((30522, 384), torch.float32)
    >>> is_embedding("bert.embeddings.word_embeddings.weight", info)
    True
    >>> is_embedding("encoder.layer.0.output.dense.weight", info)
    False
    """
    parts = name.split(".")
    module = parts[-2] if len(parts) > 1 else name
    inside_layer = any(part.isdigit() for part in parts)
    return len(info.shape) == 2 and not inside_layer and _EMBEDDING.search(module) is not None


@dataclass
class RowChanges:
    """Squared norms of the rows of one embedding, collected slice by slice: (rows,) each."""

    base: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)  # (K, rows of the slice)
    touched: list[Tensor] = field(default_factory=list)

    def see(self, base: Tensor, taus: list[Tensor]) -> None:
        """Add a slice of whole rows of the base and of every task vector, float64."""
        self.base.append(base.square().sum(1))
        self.changes.append(torch.stack([tau.square().sum(1) for tau in taus]))
        self.touched.append(torch.stack([(tau != 0).any(1) for tau in taus]))

    def report(
        self, tensor: str, experts: Iterable[str], tokens: Mapping[int, str], limit: int
    ) -> list[ChangedRows]:
        """Return what each expert changed; of the rows the ``limit`` most changed."""
        base = torch.cat(self.base)
        changes, touched = torch.cat(self.changes, 1), torch.cat(self.touched, 1)
        known = tokens if _has_tokens(tensor) and len(tokens) and max(tokens) < len(base) else {}
        found = []
        for index, expert in enumerate(experts):
            change = (changes[index] / base).sqrt()  # infinite where the base's row is zero
            ranked = torch.where(touched[index], change, -1.0)
            order = ranked.argsort(descending=True, stable=True)[:limit].tolist()
            most = tuple(
                Row(at, known.get(at), float(change[at]) if base[at] > 0 else None)
                for at in order
                if touched[index, at]
            )
            found.append(ChangedRows(tensor, expert, len(base), int(touched[index].sum()), most))
        return found


def _has_tokens(tensor: str) -> bool:
    parts = tensor.split(".")
    return _NO_TOKENS.search(parts[-2] if len(parts) > 1 else tensor) is None


def find_tokens(pool: Pool) -> tuple[dict[int, str], str | None]:
    """Return row -> token from the first tokenizer file beside the base or an expert.

    ``tokenizer.json``, ``vocab.json`` and ``vocab.txt`` are understood. The second value is a
    sentence if such a file cannot be read; without any file both are empty.
    """
    for source in (pool.base, *(expert.checkpoint for expert in pool)):
        folder = getattr(source, "path", None)
        if folder is None or not Path(folder).is_dir():
            continue
        for name, read in (("tokenizer.json", _fast), ("vocab.json", _pairs), ("vocab.txt", _lines)):
            file = Path(folder) / name
            if not file.is_file():
                continue
            try:
                return read(file.read_text(encoding="utf-8")), None
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}"
                return {}, f"{file} is not a vocabulary that can be read ({reason}): rows go by number"
    return {}, None


def _fast(text: str) -> dict[int, str]:
    """Read the file of the tokenizers library: a table, or for Unigram a list of pairs."""
    content: dict[str, Any] = json.loads(text)
    vocab = content["model"]["vocab"]
    if isinstance(vocab, dict):
        tokens = {int(number): str(token) for token, number in vocab.items()}
    else:
        tokens = {number: str(token) for number, (token, _) in enumerate(vocab)}
    return tokens | {int(t["id"]): str(t["content"]) for t in content.get("added_tokens") or []}


def _pairs(text: str) -> dict[int, str]:
    return {int(number): str(token) for token, number in json.loads(text).items()}


def _lines(text: str) -> dict[int, str]:
    return dict(enumerate(text.splitlines()))
