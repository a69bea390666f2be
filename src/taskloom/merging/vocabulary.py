"""Experts of unequal vocabularies, with their embeddings placed by token.

A row of an embedding, or of an output layer, belongs to a token and not to a number. `align` gives
every token of the base and of the experts one row: tokens of the base keep their ids, tokens that
only experts know follow. An expert without a token gets the row that the base has for it, so that its
task vector is zero there; a token that the base does not know starts from the mean of the experts
that know it, or from zero. The result are checkpoints like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np

from taskloom.errors import CheckpointError, MissingExtra, PlanError
from taskloom.lazy import Tensor, torch
from taskloom.store.access import info_of, row_range
from taskloom.store.atomic import write_json
from taskloom.store.cache import canonical_digest
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.digest import combine_digests, tensor_bytes
from taskloom.store.header import strict_json
from taskloom.store.rows import gather, placed
from taskloom.store.tokenizer import VOCABULARY, Vocabulary, copy_tokenizer, read_vocabulary

#: how the rows of tokens that the base does not know start
New = Literal["mean", "zero"]

_ROWS = 4096


@dataclass(frozen=True)
class Alignment:
    """Where every token's row is.

    Attributes
    ----------
    ids
        Token -> row, the base's first.
    new
        Tokens that the base does not know, in the order of their rows.
    added
        How the experts' tokenizers describe those of ``new`` that they have added themselves.
    rows
        Rows of the aligned tensors, padding included.
    tensors
        Names of the aligned tensors.
    """

    ids: Mapping[str, int]
    new: tuple[str, ...]
    added: Mapping[str, Mapping[str, Any]]
    rows: int
    tensors: tuple[str, ...]


def union(
    base: Vocabulary, experts: Sequence[Vocabulary], *, rows: int = 0, pad_to: int | None = None
) -> tuple[dict[str, int], int]:
    """Return token -> row, and how many rows there are.

    Parameters
    ----------
    base
        Its tokens keep their ids.
    experts
        Their further tokens follow, in the order of the experts and then of their ids.
    rows
        Rows that there are at least: those of the base's embedding.
    pad_to
        Round the number of rows up to a multiple of this.

    Raises
    ------
    PlanError
        ``pad_to`` is not positive.

    >>> union(Vocabulary({"a": 0, "b": 1}), [Vocabulary({"b": 0, "c": 1})], pad_to=4)
    ({'a': 0, 'b': 1, 'c': 2}, 4)
    """
    if pad_to is not None and pad_to < 1:
        raise PlanError(
            f"a vocabulary is padded to a positive multiple, found {pad_to}", hint="Take 8 or 64"
        )
    ids = dict(base.ids)
    following = base.size
    for expert in experts:
        for token in sorted(expert.ids, key=expert.ids.__getitem__):
            if token not in ids:
                ids[token] = following
                following += 1
    total = max(rows, following)
    if pad_to is not None:
        total += -total % pad_to
    return ids, total


def align(
    base: Checkpoint,
    experts: Sequence[Checkpoint],
    vocabularies: Sequence[Vocabulary],
    *,
    new: New = "mean",
    pad_to: int | None = None,
    tensors: Sequence[str] | None = None,
) -> tuple[Checkpoint, tuple[Checkpoint, ...], Alignment]:
    """Return the base and the experts with one vocabulary.

    Nothing is read but headers; rows are placed when they are read.

    Parameters
    ----------
    base, experts
        Models that differ in nothing but their vocabularies.
    vocabularies
        Of the base and of each expert, in this order.
    new
        How the rows of tokens that the base does not know start: from the mean of the experts that
        know them, in float32, or from zero. Experts without them get the same.
    pad_to
        Round the number of rows up to a multiple of this; padding beyond the base's is zero.
    tensors
        Which tensors have one row per token. By default embeddings and output layers, with their
        biases, found by their usual names, and tensors that differ in their number of rows alone.

    Raises
    ------
    CheckpointError
        Tensors that differ in more than their rows, a tokenizer with ids beyond the rows of a tensor,
        or no tensor to align.
    PlanError
        Not one vocabulary per model, or impossible options.
    """
    if len(vocabularies) != 1 + len(experts):
        raise PlanError(
            f"expected one vocabulary per model ({1 + len(experts)}), found {len(vocabularies)}",
            hint="Give the base's first, then one per expert",
        )
    if new not in ("mean", "zero"):
        raise PlanError(f"new tokens start from 'mean' or 'zero', found {new!r}")
    names = _names(base, experts, tensors)
    for model, vocabulary in zip([base, *experts], vocabularies, strict=True):
        _check_rows(model, vocabulary, names)
    rows = base.tensors[names[0]].shape[0]
    ids, total = union(vocabularies[0], vocabularies[1:], rows=rows, pad_to=pad_to)
    fresh = tuple(token for token in ids if token not in vocabularies[0].ids)
    places = [_places(each, ids, total) for each in vocabularies]
    padding = np.arange(min(rows, total))
    unused = np.ones(total, dtype=bool)
    unused[list(ids.values())] = False
    places[0][padding] = np.where(unused[padding], padding, places[0][padding])
    start = _Fresh(tuple(experts), tuple(places[1:]), new)
    aligned_base = AlignedCheckpoint(base, names, places[0], start)
    aligned_experts = tuple(
        AlignedCheckpoint(expert, names, place, aligned_base)
        for expert, place in zip(experts, places[1:], strict=True)
    )
    added: dict[str, Mapping[str, Any]] = {}
    for vocabulary in reversed(vocabularies[1:]):
        added |= {token: vocabulary.added[token] for token in fresh if token in vocabulary.added}
    return aligned_base, aligned_experts, Alignment(ids, fresh, added, total, names)


def align_directories(
    base: Checkpoint, experts: Sequence[Checkpoint], **options: Any
) -> tuple[Checkpoint, tuple[Checkpoint, ...], Alignment]:
    """Align as `align` does, with the tokenizers in the models' own directories.

    Raises
    ------
    CheckpointError
        A model that is not in a directory or has no tokenizer there; what `align` refuses.
    """
    vocabularies = []
    for model in (base, *experts):
        path = getattr(model, "path", None)
        if path is None:
            raise CheckpointError(
                f"{model.label}: expected a directory with a tokenizer, found weights alone",
                hint="Save the model with its tokenizer, or give the vocabularies",
            )
        vocabularies.append(read_vocabulary(Path(path)))
    return align(base, experts, vocabularies, **options)


def write_tokenizer(alignment: Alignment, source: Path, folder: Path) -> None:
    """Write the tokenizer of an aligned model: the base's, with the new tokens added.

    ``config.json`` of ``folder``, if there is one, is told the number of rows.

    Parameters
    ----------
    alignment
        From `align`.
    source
        The base's directory.
    folder
        The new model's directory.

    Raises
    ------
    CheckpointError
        The tokenizer would give a new token another id than its row.
    MissingExtra
        There are new tokens, and transformers is not installed.
    """
    copy_tokenizer(source, folder)
    if alignment.new:
        _add_tokens(alignment, source, folder)
    config = folder / "config.json"
    if config.is_file():
        table = strict_json(config.read_text(encoding="utf-8"))
        for part in [table, *(each for each in table.values() if isinstance(each, dict))]:
            if isinstance(part.get("vocab_size"), int):
                part["vocab_size"] = alignment.rows
        write_json(config, table)


def _add_tokens(alignment: Alignment, source: Path, folder: Path) -> None:
    try:
        from transformers import AddedToken, AutoTokenizer
    except ImportError:
        raise MissingExtra("transformers", "run", purpose="adding tokens to a tokenizer") from None
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    for token in alignment.new:
        entry = alignment.added.get(token, {})
        flags = {
            key: bool(entry[key])
            for key in ("lstrip", "rstrip", "single_word", "normalized", "special")
            if key in entry
        }
        made = AddedToken(token, **({"normalized": False} | flags))
        tokenizer.add_tokens([made], special_tokens=flags.get("special", False))
    found = tokenizer.get_vocab()
    for token, number in alignment.ids.items():
        if found.get(token) != number:
            raise CheckpointError(
                f"{source}: the tokenizer gives token {token!r} the id {found.get(token)}, but its row "
                f"is {number}",
                hint="Save the base's tokenizer with ids without gaps, or take one model's tokenizer",
            )
    tokenizer.save_pretrained(folder)


class _Rows(Protocol):
    """What gives rows to tokens that a checkpoint does not have."""

    def rows(self, name: str, info: TensorInfo, first: int, last: int) -> Tensor:
        """Return aligned rows [first, last)."""
        ...


@dataclass(frozen=True)
class _Fresh:
    """Rows of tokens that the base does not know: the experts' mean, or zero."""

    experts: tuple[Checkpoint, ...]
    places: tuple[np.ndarray, ...]
    new: New

    def rows(self, name: str, info: TensorInfo, first: int, last: int) -> Tensor:
        total = torch.zeros((last - first, *info.shape[1:]), dtype=torch.float32)
        if self.new == "zero":
            return total.to(info.dtype)
        count = torch.zeros(last - first, dtype=torch.float32)
        for expert, place in zip(self.experts, self.places, strict=True):
            known = place[first:last] >= 0
            if known.any():
                own = gather(expert, name, place[first:last][known])
                total[torch.from_numpy(known)] += own.to(torch.float32)
                count += torch.from_numpy(known).to(torch.float32)
        shape = (-1, *([1] * (len(info.shape) - 1)))
        return (total / count.clamp(min=1).reshape(shape)).to(info.dtype)


class AlignedCheckpoint:
    """A checkpoint whose vocabulary tensors have their rows placed by token.

    Parameters
    ----------
    inner
        The checkpoint as it is stored.
    names
        Its tensors with one row per token.
    places
        int64 (rows,): the stored row that each aligned row is, -1 for none.
    default
        Gives the rows that are not stored.
    """

    def __init__(
        self, inner: Checkpoint, names: Sequence[str], places: np.ndarray, default: _Rows
    ) -> None:
        self._inner = inner
        self._names = frozenset(names)
        self._places = places
        self._default = default
        self._tensors = {
            name: TensorInfo((len(places), *info.shape[1:]), info.kind) if name in self._names else info
            for name, info in inner.tensors.items()
        }

    @property
    def label(self) -> str:
        """The inner checkpoint's."""
        return self._inner.label

    @property
    def path(self) -> Path | None:
        """The inner checkpoint's directory, if it has one."""
        found: Path | None = getattr(self._inner, "path", None)
        return found

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files of the inner checkpoint, if it has any."""
        return tuple(getattr(self._inner, "files", ()))

    @property
    def placement(self) -> str:
        """SHA-256 of where rows are placed: what its tensors are beside its files."""
        places = hashlib.sha256(np.ascontiguousarray(self._places, dtype="<i8").tobytes())
        return canonical_digest([sorted(self._names), places.hexdigest()])

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names of tied tensors."""
        found: Mapping[str, str] = getattr(self._inner, "aliases", {})
        return found

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The inner checkpoint's, with the aligned number of rows."""
        return MappingProxyType(self._tensors)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return the tensor, or the given rows along axis 0; only rows that are used are read.

        Raises
        ------
        CheckpointError
            There is no such tensor.
        ValueError
            Rows of a scalar, or with a step other than 1.
        """
        info = info_of(self._tensors, name, self.label)
        if name not in self._names:
            return self._inner.read(name, rows)
        whole = slice(0, info.shape[0]) if rows is None else rows
        return self.rows(name, info, *row_range(name, info.shape, whole))

    def rows(self, name: str, info: TensorInfo, first: int, last: int) -> Tensor:
        """Return aligned rows [first, last) in the dtype of ``info``."""
        return placed(
            self._inner,
            name,
            self._places[first:last],
            info.dtype,
            lambda: self._default.rows(name, info, first, last),
        )

    def digest(self) -> str:
        """SHA-256 of the aligned weights: that of a checkpoint which holds them."""
        return combine_digests(
            (name, info, self._tensor_digest(name, info)) for name, info in self._tensors.items()
        )

    def _tensor_digest(self, name: str, info: TensorInfo) -> str:
        state = hashlib.sha256()
        for rows in _blocks(info):
            state.update(tensor_bytes(self.read(name, rows)))
        return state.hexdigest()


def _blocks(info: TensorInfo) -> Iterator[slice | None]:
    if not info.shape:
        yield None
        return
    for start in range(0, info.shape[0], _ROWS):
        yield slice(start, start + _ROWS)


def _places(vocabulary: Vocabulary, ids: Mapping[str, int], rows: int) -> np.ndarray:
    found = np.full(rows, -1, dtype=np.int64)
    for token, number in vocabulary.ids.items():
        found[ids[token]] = number
    return found


def _names(
    base: Checkpoint, experts: Sequence[Checkpoint], given: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the tensors with one row per token, the first of them an embedding or a head."""
    for name in given or ():
        info_of(base.tensors, name, base.label)
    known = [n for n in base.tensors if (n in given if given is not None else VOCABULARY.fullmatch(n))]
    if not known:
        raise CheckpointError(
            f"{base.label}: expected an embedding with one row per token, found none by its name",
            hint="Name the tensors that have one row per token",
        )
    found = list(known)
    for name, info in base.tensors.items():
        for expert in experts:
            other = expert.tensors.get(name)
            if other is None or (other.shape == info.shape and name not in known):
                continue
            tables = [
                each.tensors[known[0]].shape[:1] for each in (base, expert) if known[0] in each.tensors
            ]
            wide = info.shape and other.shape and info.shape[1:] == other.shape[1:]
            if not wide or (name not in known and [info.shape[:1], other.shape[:1]] != tables):
                raise CheckpointError(
                    f"tensor {name!r}: {list(info.shape)} in {base.label} and {list(other.shape)} in "
                    f"{expert.label} differ in more than rows for tokens (the two have "
                    f"{' and '.join(str(each[0]) for each in tables)})",
                    hint="Only models that differ in nothing but the vocabulary can be aligned",
                )
            if name not in found:
                found.append(name)
    return tuple(found)


def _check_rows(model: Checkpoint, vocabulary: Vocabulary, names: Sequence[str]) -> None:
    for name in names:
        if name not in model.tensors:
            continue
        rows = model.tensors[name].shape[0]
        if rows < vocabulary.size:
            token = max(vocabulary.ids, key=vocabulary.ids.__getitem__)
            raise CheckpointError(
                f"{model.label}: tensor {name!r} has {rows} rows, but the tokenizer {vocabulary.where} "
                f"has {vocabulary.size} ids, the last of them {token!r}",
                hint="Use the tokenizer that belongs to this model, or name the tensors that have one "
                "row per token",
            )
