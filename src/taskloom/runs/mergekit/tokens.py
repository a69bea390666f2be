"""Vocabularies: which tokens the output has, and which row of which embedding each one gets.

The rules are mergekit's. What a tokenizer says is read by `taskloom.store.tokenizer`, from
``tokenizer.json`` alone; rows are read in their new order by `taskloom.store.rows`, as they are where a
merge unites vocabularies itself (`taskloom.merging.vocabulary`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.errors import CheckpointError, PlanError
from taskloom.lazy import Tensor, torch
from taskloom.runs.mergekit.models import Model, promoted
from taskloom.runs.mergekit.schema import MergeConfiguration, ModelName, TokenRow
from taskloom.store.access import info_of, row_range
from taskloom.store.cache import canonical_digest
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.rows import ROWS, placed
from taskloom.store.tokenizer import CHAT, TOKENIZER, is_tokenizer_file, read_vocabulary
from taskloom.store.tokenizer import Vocabulary as Tokens

_WORDS = re.compile(r"embed|wte|lm_head|output|unembed|decoder|vocab|predictions|word")
_POSITIONS = re.compile(r"position|pos_|token_type|wpe|type_embed|norm", re.IGNORECASE)


def is_vocabulary(model: Model, name: str) -> bool:
    """Say whether the rows of a tensor are tokens, by its name, its place and its first axis."""
    info = model.checkpoint.tensors.get(name)
    if info is None or name in model.anatomy.place or not info.shape or not info.is_float:
        return False
    named = bool(_WORDS.search(name)) and not _POSITIONS.search(name)
    return named and info.shape[0] == model.vocabulary_size


def read_tokens(model: Model) -> Tokens:
    """Read a model's vocabulary.

    Raises
    ------
    CheckpointError
        No ``tokenizer.json``, one that is malformed, or ids beyond the rows of the embedding.
    """
    if not (model.path / TOKENIZER).is_file():
        raise CheckpointError(
            f"{model.name}: expected {TOKENIZER} with a vocabulary, found none",
            hint=f"Save its tokenizer with transformers (fast tokenizers write {TOKENIZER})",
        )
    tokens = read_vocabulary(model.path)
    rows = model.vocabulary_size
    beyond = [token for token, number in tokens.ids.items() if rows is not None and number >= rows]
    if beyond:
        raise CheckpointError(
            f"{model.name}: token {beyond[0]!r} has the id {tokens.ids[beyond[0]]}, but the embedding "
            f"has {rows} rows",
            hint="Resize the model's embedding to its tokenizer first",
        )
    return tokens


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The output's tokens and where their rows come from.

    Attributes
    ----------
    source
        The model whose tokenizer files are copied.
    ids
        Token -> id in the output.
    size
        Rows of the output's embeddings, padding included.
    new
        Entries that are added to ``tokenizer.json``, with their ids.
    rows
        Explicit choices of the file, by token.
    base
        The base model, if there is one.
    """

    source: Model
    ids: Mapping[str, int]
    size: int
    new: tuple[Mapping[str, Any], ...]
    rows: Mapping[str, TokenRow]
    known: Mapping[ModelName, Tokens]
    models: Mapping[ModelName, Model]
    base: ModelName | None
    _placed: dict[tuple[ModelName, str, tuple[ModelName, ...]], PlacedRows] = field(
        default_factory=dict, repr=False
    )

    def placed(self, model: Model, name: str, members: Sequence[Model]) -> PlacedRows:
        """Return the model's tensor with its rows in the output's order.

        Tokens that the model lacks get the row of the only model that has them, else of the base, else
        the mean of those that have them; zeros if nobody has them.
        """
        key = (model.name, name, tuple(m.name for m in members))
        if key not in self._placed:
            self._placed[key] = self._place(model, name, members)
        return self._placed[key]

    def placing(self) -> str:
        """Digest of which row of which tensor goes where, in all tensors that were placed."""
        parts = [[str(key[0]), key[1], rows.placing()] for key, rows in self._placed.items()]
        return canonical_digest([self.size, sorted(parts)])

    def _place(self, model: Model, name: str, members: Sequence[Model]) -> PlacedRows:
        own = [-1] * self.size
        others: dict[int, tuple[tuple[Model, int], ...]] = {}
        mine = self.known[model.name].ids
        for token, number in self.ids.items():
            row = self.rows.get(token)
            if token in mine and not (row and row.force):
                own[number] = mine[token]
            else:
                others[number] = self._donors(token, row, members)
        padding = range(len(self.ids), self.size)
        return PlacedRows(model, name, own, others, padding, members)

    def _donors(
        self, token: str, row: TokenRow | None, members: Sequence[Model]
    ) -> tuple[tuple[Model, int], ...]:
        if row is not None:
            return self._chosen(token, row)
        having = [m for m in members if token in self.known[m.name].ids]
        based = [m for m in having if m.name == self.base]
        return tuple((m, self.known[m.name].ids[token]) for m in (based or having))

    def _chosen(self, token: str, row: TokenRow) -> tuple[tuple[Model, int], ...]:
        source = row.source
        if isinstance(source, Mapping) and source.get("kind") == "zero":
            return ()
        wanted: Any = token
        if isinstance(source, Mapping) and source.get("kind") == "model_token":
            given = [key for key in ("token", "token_id") if source.get(key) is not None]
            if len(given) != 1:
                raise PlanError(f"tokenizer: token {token!r}: give either token or token_id")
            wanted, source = source[given[0]], source.get("model")
        if source is None:
            raise PlanError(f"tokenizer: token {token!r} has no source", hint="Name a model")
        name = ModelName.model_validate(source)
        if name not in self.models:
            listed = ", ".join(str(each) for each in self.models)
            raise PlanError(f"tokenizer: token {token!r}: {name} is not one of {listed}")
        known, model = self.known[name].ids, self.models[name]
        number = wanted if isinstance(wanted, int) else known.get(wanted)
        if number is None or not 0 <= number < (model.vocabulary_size or 0):
            raise PlanError(f"tokenizer: token {token!r}: {name} has no token {wanted!r}")
        return ((model, number),)


def plan_vocabulary(
    config: MergeConfiguration, models: Sequence[Model], template: Model
) -> Vocabulary | None:
    """Return the output's vocabulary, or None if the file asks for none (the tokenizer is copied).

    Raises
    ------
    PlanError, CheckpointError
        A source that is no model of the merge, or a tokenizer that cannot be read.
    """
    section = config.tokenizer
    source = section.source if section else config.tokenizer_source
    if source is None:
        return None
    known = {model.name: read_tokens(model) for model in models}
    named = {model.name: model for model in models}
    owner = template
    if source not in ("union", "base"):
        name = ModelName.model_validate(source)
        if name not in named:
            listed = ", ".join(str(each) for each in named)
            raise PlanError(
                f"tokenizer source {source!r} is not a model of the merge",
                hint=f"Take union, base or one of {listed}",
            )
        owner = named[name]
    ids = dict(known[owner.name].ids)
    start = max(ids.values(), default=-1) + 1
    rows = (section.tokens if section else None) or {}
    entries = _union(list(known.values()), ids) if source == "union" else []
    taken = {entry["content"] for entry in entries}
    entries += [_entry(token) for token in rows if token not in ids and token not in taken]
    new = tuple({**entry, "id": start + number} for number, entry in enumerate(entries))
    ids |= {entry["content"]: entry["id"] for entry in new}
    size = max(ids.values(), default=-1) + 1
    multiple = (section.pad_to_multiple_of if section else None) or 1
    size = -(-size // multiple) * multiple
    return Vocabulary(owner, ids, size, new, rows, known, named, config.base_model)


def _union(every: Sequence[Tokens], ids: Mapping[str, int]) -> list[Mapping[str, Any]]:
    """Entries of tokens not in ``ids``: first plain ones, then added ones, by model and id."""
    plain: dict[str, Mapping[str, Any]] = {}
    added: dict[str, Mapping[str, Any]] = {}
    special = {content for tokens in every for content in tokens.added}
    for tokens in every:
        for token, _ in sorted(tokens.ids.items(), key=lambda item: item[1]):
            if token in ids:
                continue
            if token in tokens.added:
                added.setdefault(token, tokens.added[token])
            elif token not in special:
                plain.setdefault(token, _entry(token))
    return [*plain.values(), *added.values()]


def _entry(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {"content": token, **flags, "normalized": True, "special": False}


class PlacedRows:
    """One tensor of a model with its rows placed by token; a checkpoint of one tensor.

    Rows are read where they are wanted, neighbours together, so that a slice of the output takes a
    slice of memory however the tokens are ordered.

    Parameters
    ----------
    model, name
        Whose tensor.
    own
        For each row of the output the model's own row, -1 if it has none.
    others
        Row of the output -> rows whose mean it is; zeros where there are none and ``own`` is -1.
    padding
        Rows of the output that are the mean of all before them.
    members
        Who is merged; the dtype holds the numbers of all.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        own: Sequence[int],
        others: Mapping[int, tuple[tuple[Model, int], ...]],
        padding: range,
        members: Sequence[Model],
    ) -> None:
        self._model, self._name, self._others = model, name, others
        self._own = np.asarray(own, np.int64)
        self._padding = padding
        kinds = [m.checkpoint.tensors[name].kind for m in members if name in m.checkpoint.tensors]
        shape = (len(own), *model.checkpoint.tensors[name].shape[1:])
        self._tensors = {name: TensorInfo(shape, promoted(kinds))}
        self._mean: Tensor | None = None

    @property
    def label(self) -> str:
        """The model's."""
        return self._model.checkpoint.label

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The one tensor."""
        return self._tensors

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files of the model and of those it takes rows from."""
        donors = [m for rows in self._others.values() for m, _ in rows]
        models = {id(m): m for m in (self._model, *donors)}.values()
        return tuple(dict.fromkeys(f for m in models for f in getattr(m.checkpoint, "files", ())))

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return placed rows, all if ``rows`` is None."""
        info = info_of(self._tensors, name, self.label)
        first, last = row_range(name, info.shape, rows or slice(None))
        own = self._own[first:last]
        found = placed(
            self._model.checkpoint, name, own, info.dtype, lambda: self._of_others(info, first, last)
        )
        if self._padding and last > self._padding.start:
            found[max(0, self._padding.start - first) :] = self._padding_row()
        return found

    def _of_others(self, info: TensorInfo, first: int, last: int) -> Tensor:
        found = torch.zeros((last - first, *info.shape[1:]), dtype=info.dtype)
        for number in range(first, last):
            if donors := self._others.get(number):
                found[number - first] = _mean_row(self._name, donors, info.dtype)
        return found

    def _padding_row(self) -> Tensor:
        if self._mean is None:
            count, total = self._padding.start, None
            for start in range(0, count, ROWS):
                block = self.read(self._name, slice(start, min(start + ROWS, count)))
                part = block.to(torch.float64).sum(0)
                total = part if total is None else total + part
            assert total is not None
            self._mean = (total / count).to(block.dtype)
        return self._mean

    def digest(self) -> str:
        """Digest of the model's weights and of the placing."""
        return hashlib.sha256(f"{self._model.checkpoint.digest()}{self.placing()}".encode()).hexdigest()

    def placing(self) -> str:
        """Digest of which row goes where."""
        donors = {n: [(str(m.name), row) for m, row in rows] for n, rows in self._others.items()}
        said = f"{self._name}{self._own.tolist()}{sorted(donors.items())}{self._padding}"
        return hashlib.sha256(said.encode()).hexdigest()


def _mean_row(name: str, donors: Sequence[tuple[Model, int]], dtype: torch.dtype) -> Tensor:
    total = None
    for model, row in donors:
        part = model.checkpoint.read(name, slice(row, row + 1))[0].to(dtype)
        total = part if total is None else total + part
    assert total is not None
    return total if len(donors) == 1 else total / len(donors)


def tokenizer_files(path: Path) -> list[Path]:
    """Files of a directory that belong to its tokenizer, the chat template among them."""
    return sorted(p for p in path.iterdir() if is_tokenizer_file(p.name) or p.name == CHAT)
