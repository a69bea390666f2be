"""From what a user names to a pool that can be merged: heads set aside, vocabularies united.

What is set aside or united is written into the output afterwards: `Prepared.finish` is called with the
folder of the new model once its configuration is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom import __version__
from taskloom.errors import CheckpointError, PlanError, nearest
from taskloom.merging.vocabulary import Alignment, align_directories, write_tokenizer
from taskloom.store.card import CARD, model_card, origin_of
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.heads import NAMES, Split, split_heads, write_heads
from taskloom.store.open import Source
from taskloom.store.pool import Expert, Pool, open_pool
from taskloom.store.tokenizer import (
    copy_tokenizer,
    read_chat_template,
    read_vocabulary,
    write_chat_template,
)

_EMBEDDINGS = ("embed_tokens", "tok_embeddings", "wte", "word_embeddings", "embed_in", "shared")


@dataclass(frozen=True)
class Prepared:
    """A pool, and what has to be written beside its merge.

    Attributes
    ----------
    pool
        Checked experts of one base.
    finish
        Writes card, heads, tokenizer and chat template into the folder of the new model, given its
        title and the recipe as it is recorded.
    record
        The options that differ from their defaults, JSON-ready.
    """

    pool: Pool
    finish: Callable[[Path, str, Mapping[str, Any]], None]
    record: Mapping[str, Any]


def prepare(
    base: Source | None,
    experts: Sequence[Source | Expert] | Mapping[str, Source | Expert],
    *,
    names: Sequence[str] | None = None,
    allow_pickle: bool = False,
    heads: str | Sequence[str] = "refuse",
    tokenizer: str = "base",
    chat_template: str | None = None,
) -> Prepared:
    """Open a base and its experts as the options say.

    Parameters
    ----------
    base, experts, names, allow_pickle
        As `taskloom.merge`.
    heads
        ``"refuse"``: models with different heads do not fit. ``"keep"``: modules with the usual names
        of heads (`taskloom.store.heads.NAMES`) are not merged but kept per expert. Or the names of the
        modules that are heads, as a list or with commas between them.
    tokenizer
        ``"base"``: the tokenizer of the base (of the first expert if there is none). ``"union"``: every
        token of every model has one row, embeddings are aligned by token, and the tokenizer has all.
        Or the name of an expert, or a directory, whose tokenizer is copied.
    chat_template
        None: as it comes with the tokenizer. ``"none"``: none. Or the name of an expert (or
        ``base``), a directory, or a file with the template.

    Raises
    ------
    CheckpointError
        What `taskloom.store.pool.open_pool` and `taskloom.merging.vocabulary.align` refuse; a
        tokenizer with more tokens than the embedding has rows; no template where one was asked for.
    PlanError
        An option that says nothing that is there.
    """
    if isinstance(experts, Mapping):
        names = list(experts) if names is None else names
        experts = list(experts.values())
    splits: list[Split] = []
    found: list[Alignment] = []
    union = tokenizer == "union"

    def change(
        start: Checkpoint | None, members: Sequence[Checkpoint]
    ) -> tuple[Checkpoint | None, Sequence[Checkpoint]]:
        if heads != "refuse":
            models = [*([] if start is None else [start]), *members]
            splits.extend(split_heads(models, _modules(heads)))
            bodies = [split.body for split in splits]
            start, members = (None, bodies) if start is None else (bodies[0], bodies[1:])
        if union:
            first = members[0] if start is None else start
            aligned, members, alignment = align_directories(first, members)
            start = None if start is None else aligned
            found.append(alignment)
        return start, members

    plain = heads == "refuse" and not union
    pool = open_pool(
        base, experts, names=names, allow_pickle=allow_pickle, change=None if plain else change
    )
    source = None if tokenizer in ("base", "union") else _directory("tokenizer", tokenizer, pool)
    if source is not None:
        _check_room(source, pool)
    template = _template(chat_template, pool)

    def finish(folder: Path, title: str, recipe: Mapping[str, Any]) -> None:
        _write_card(folder, pool, title, recipe)
        if found:
            write_tokenizer(found[0], _own_directory("tokenizer", pool), folder)
        elif source is not None:
            copy_tokenizer(source, folder)
            if (own := read_chat_template(source)) is not None:
                write_chat_template(folder, own)
        if chat_template is not None:
            write_chat_template(folder, template)
        if splits:
            write_heads(folder, dict(zip(pool.names, splits[-len(pool) :], strict=True)))

    chosen = {"heads": heads, "tokenizer": tokenizer, "chat_template": chat_template}
    usual = {"heads": "refuse", "tokenizer": "base", "chat_template": None}
    record = {key: value for key, value in chosen.items() if value != usual[key]}
    return Prepared(pool, finish, record)


def _write_card(folder: Path, pool: Pool, title: str, recipe: Mapping[str, Any]) -> None:
    origins = [] if pool.base is None else [origin_of("base", "base", pool.base)]
    origins += [origin_of("expert", each.name, each.checkpoint) for each in pool.experts]
    shown = {key: recipe[key] for key in ("method", "options") if key in recipe}
    text = model_card(
        title,
        origins,
        shown,
        library="transformers" if (folder / "config.json").is_file() else None,
        composition=str(recipe.get("composition", "")),
        version=__version__,
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _modules(heads: str | Sequence[str]) -> Sequence[str]:
    if heads == "keep":
        return NAMES
    given = heads.split(",") if isinstance(heads, str) else heads
    modules = [str(each).strip() for each in given]
    if not modules or not all(modules):
        raise PlanError(
            f"heads: expected 'refuse', 'keep' or names of modules, found {heads!r}",
            hint="Write --heads classifier,pooler",
        )
    return modules


def _directory(what: str, name: str, pool: Pool) -> Path:
    """Return the directory of a model of the pool, or the one that is named."""
    members: dict[str, Checkpoint] = {expert.name: expert.checkpoint for expert in pool.experts}
    if pool.base is not None:
        members.setdefault("base", pool.base)
    if name in members:
        path = getattr(members[name], "path", None)
        if path is not None and Path(path).is_dir():
            return Path(path)
        raise CheckpointError(
            f"{what}: {name!r} ({members[name].label}) is no directory with files beside the weights",
            hint="Name a directory",
        )
    if Path(name).is_dir():
        return Path(name)
    guess = nearest(name, [*members, "union", "none"])
    raise PlanError(
        f"{what}: {name!r} is neither a model of the merge nor a directory",
        hint=f"Did you mean {guess!r}?" if guess else f"There are: {', '.join(members)}",
    )


def _own_directory(what: str, pool: Pool) -> Path:
    path = getattr(pool.yardstick, "path", None)
    if path is None:
        raise CheckpointError(
            f"{what}: {pool.yardstick.label} is no directory", hint="Merge models in directories"
        )
    return Path(path)


def _check_room(source: Path, pool: Pool) -> None:
    vocabulary = read_vocabulary(source)
    for name, info in pool.tensors.items():
        parts = name.split(".")
        if len(parts) > 1 and parts[-2] in _EMBEDDINGS and info.shape[0] < vocabulary.size:
            raise CheckpointError(
                f"tokenizer: {source} has ids up to {vocabulary.size - 1}, but the merged {name!r} has "
                f"{info.shape[0]} rows",
                hint="Unite the vocabularies (--tokenizer union)",
            )


def _template(chosen: str | None, pool: Pool) -> str | None:
    if chosen is None or chosen == "none":
        return None
    if Path(chosen).is_file():
        try:
            return Path(chosen).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"chat template: {chosen}: cannot be read as text in UTF-8: {error}",
                hint="Name a file with a Jinja template",
            ) from error
    folder = _directory("chat template", chosen, pool)
    found = read_chat_template(folder)
    if found is None:
        raise CheckpointError(
            f"chat template: {folder} has none", hint="Name another model, a file, or 'none'"
        )
    return found
