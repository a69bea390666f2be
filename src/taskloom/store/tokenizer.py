"""A tokenizer's vocabulary and chat template, read from its files without running it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskloom.errors import CheckpointError, MissingExtra
from taskloom.store.access import inside
from taskloom.store.atomic import write_json
from taskloom.store.header import strict_json

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
CHAT = "chat_template.jinja"

#: names of tensors with one row per token
VOCABULARY = re.compile(
    r"(.*\.)?((embed_tokens|tok_embeddings|wte|word_embeddings|embed_in|shared|lm_head|embed_out|proj_out)"
    r"\.(weight|bias)|predictions\.(decoder\.(weight|bias)|bias))"
)

_NAMES = frozenset(
    {
        TOKENIZER,
        CONFIG,
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "sentencepiece.bpe.model",
        "spiece.model",
        "source.spm",
        "target.spm",
        "tekken.json",
        "bpe.codes",
    }
)
_SUFFIXES = (".tiktoken", ".model", ".vocab", ".bpe")
_CHATS = frozenset({CHAT, "chat_template.json"})


def is_tokenizer_file(name: str) -> bool:
    """Tell whether a file of this name belongs to the tokenizer.

    >>> is_tokenizer_file("tokenizer.json"), is_tokenizer_file("config.json")
    (True, False)
    """
    return name in _NAMES or name.endswith(_SUFFIXES)


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer calls each id.

    Attributes
    ----------
    ids
        Token -> id, the tokens added later among them.
    added
        Token -> its entry among the tokens added later: ``special``, ``lstrip``, ``rstrip``,
        ``single_word``, ``normalized``.
    where
        How messages call it.
    """

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    where: str = "<memory>"

    def __post_init__(self) -> None:
        seen: dict[int, str] = {}
        for token, number in self.ids.items():
            if type(number) is not int or number < 0:
                raise CheckpointError(
                    f"{self.where}: token {token!r}: expected a non-negative id, found {number!r}",
                    hint="Get the tokenizer again",
                )
            if number in seen:
                raise CheckpointError(
                    f"{self.where}: the tokens {seen[number]!r} and {token!r} have one id, {number}",
                    hint="Get the tokenizer again",
                )
            seen[number] = token

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.ids.values(), default=-1) + 1


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary of the tokenizer in a model's directory.

    ``tokenizer.json`` is read as it is, and so are ``vocab.json`` and ``vocab.txt``; of any other kind
    of tokenizer transformers is asked.

    Raises
    ------
    CheckpointError
        There is no tokenizer, it is malformed, or two tokens have one id.
    MissingExtra
        A kind that only transformers can read, which is not installed.
    """
    if (folder / TOKENIZER).exists():
        return _from_json(inside(folder, TOKENIZER, named_by=str(folder)))
    for name in ("vocab.json", "vocab.txt"):
        if (folder / name).exists():
            path = inside(folder, name, named_by=str(folder))
            ids = _object(path) if name.endswith("json") else _lines(path)
            extra = folder / "added_tokens.json"
            more = _object(inside(folder, extra.name, named_by=str(folder))) if extra.exists() else {}
            return Vocabulary(ids | more, {token: {} for token in more}, str(path))
    if not any(is_tokenizer_file(each.name) for each in folder.iterdir()):
        raise CheckpointError(
            f"{folder}: expected a tokenizer such as {TOKENIZER}, found none",
            hint="Copy the tokenizer of the model into its directory",
        )
    return _from_transformers(folder)


def copy_tokenizer(source: Path, folder: Path) -> list[str]:
    """Replace the tokenizer in ``folder`` by the one in ``source``, chat template excepted.

    Returns
    -------
    list of str
        Names of the files, sorted.

    Raises
    ------
    CheckpointError
        ``source`` has no tokenizer, or one of its files is a link to the outside.
    """
    names = sorted(each.name for each in source.iterdir() if is_tokenizer_file(each.name))
    if not names:
        raise CheckpointError(
            f"{source}: expected a tokenizer such as {TOKENIZER}, found none",
            hint="Take the tokenizer of another model",
        )
    files = {name: inside(source, name, named_by=str(source)) for name in names}
    chat = read_chat_template(folder)
    for each in [each for each in folder.iterdir() if is_tokenizer_file(each.name)]:
        each.unlink()
    for name, file in files.items():
        shutil.copyfile(file, folder / name)
    if chat is not None:
        write_chat_template(folder, chat)
    return names


def read_chat_template(folder: Path) -> str | None:
    """Return the default chat template of a model's directory, None if it has none.

    Raises
    ------
    CheckpointError
        One of the files that can hold it is malformed.
    """
    if (folder / CHAT).exists():
        return _text(inside(folder, CHAT, named_by=str(folder)))
    for name in ("chat_template.json", CONFIG):
        if not (folder / name).exists():
            continue
        found = _object(inside(folder, name, named_by=str(folder))).get("chat_template")
        if isinstance(found, list):  # several, each with a name
            named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
            found = named.get("default")
        if isinstance(found, str):
            return found
    return None


def write_chat_template(folder: Path, template: str | None) -> None:
    """Make ``template`` the only chat template of a directory; None removes what there is."""
    for name in _CHATS:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)
    config = folder / CONFIG
    if config.exists():
        table = _object(config)
        if table.pop("chat_template", None) is not None:
            write_json(config, table)
    if template is not None:
        (folder / CHAT).write_text(template, encoding="utf-8")


def _from_json(path: Path) -> Vocabulary:
    table = _object(path)
    model = table.get("model")
    found = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(found, list):  # pairs of token and score
        pieces = [each[0] if isinstance(each, list) and each else None for each in found]
        found = {piece: number for number, piece in enumerate(pieces) if isinstance(piece, str)}
    added = table.get("added_tokens") or []
    if not (isinstance(found, dict) and isinstance(added, list)) or not all(
        isinstance(each, dict) and isinstance(each.get("content"), str) for each in added
    ):
        raise CheckpointError(
            f"{path}: expected a model with a vocabulary, and a list of added tokens",
            hint="Save the tokenizer again with a recent transformers",
        )
    late = {each["content"]: each for each in added}
    ids = dict(found) | {token: each.get("id") for token, each in late.items()}
    return Vocabulary(ids, late, str(path))


def _from_transformers(folder: Path) -> Vocabulary:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtra("transformers", "run", purpose=f"reading the tokenizer of {folder}") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return Vocabulary(dict(tokenizer.get_vocab()), {}, str(folder))
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be read: {reason}",
            hint=f"Save it with transformers as {TOKENIZER}",
        ) from error


def _lines(path: Path) -> dict[str, int]:
    return {token: number for number, token in enumerate(_text(path).split("\n")) if token}


def _object(path: Path) -> dict[str, Any]:
    try:
        found = strict_json(_text(path))
    except ValueError as error:
        raise CheckpointError(
            f"{path}: expected JSON, but {error}", hint="Get the tokenizer again"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: expected a JSON object, found {type(found).__name__}",
            hint="Get the tokenizer again",
        )
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as text in UTF-8: {error}", hint="Get the tokenizer again"
        ) from error
