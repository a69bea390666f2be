"""What the output's directory holds besides weights: configuration, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskloom.errors import PlanError, nearest
from taskloom.runs.mergekit.chat import TEMPLATES
from taskloom.runs.mergekit.models import Model, read_json
from taskloom.runs.mergekit.reading import Document
from taskloom.runs.mergekit.resolve import Resolved
from taskloom.runs.mergekit.tokens import Vocabulary, tokenizer_files
from taskloom.store.atomic import write_json
from taskloom.store.tokenizer import read_chat_template

CONFIG_COPY = "mergekit_config.yml"


def choose_chat_template(wanted: str | None, models: Sequence[Model]) -> str | None:
    """Return the text of the chat template the output gets; None to leave it as it is.

    ``auto`` takes the one most models have; of equally frequent ones the first in the order of the
    file, the base before all. Other values are a name of `taskloom.runs.mergekit.chat.TEMPLATES`, or
    the Jinja text itself.

    Raises
    ------
    PlanError
        Neither a name nor text that can be a template.
    """
    if wanted is None:
        return None
    if wanted == "auto":
        found = [text for model in models if (text := _chat_template(model))]
        return Counter(found).most_common(1)[0][0] if found else None
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    if len(wanted) < 20 or "{" not in wanted:
        guess = nearest(wanted, TEMPLATES)
        did = f"; did you mean {guess!r}?" if guess else ""
        raise PlanError(
            f"chat_template {wanted!r} is not Jinja text{did}",
            hint=f"Give the text, auto, or one of {', '.join(TEMPLATES)}",
        )
    return wanted


def _chat_template(model: Model) -> str | None:
    found = read_chat_template(model.path)
    return None if found is None else found.strip()


def finish(folder: Path, document: Document, resolved: Resolved, template: str | None) -> None:
    """Patch what was copied from the template's directory; add the file that was carried out."""
    vocabulary = resolved.vocabulary
    patch = dict(resolved.patch)
    if vocabulary is not None:
        patch |= _vocabulary_keys(resolved.template, vocabulary.size)
        _write_tokenizer(folder, vocabulary)
    if patch and (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        for key, value in patch.items():
            _set(config, key, value)
        write_json(folder / "config.json", config)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        _drop_key(folder / "tokenizer_config.json", "chat_template")
    (folder / CONFIG_COPY).write_text(document.text, encoding="utf-8")


def patched(config: Mapping[str, Any], resolved: Resolved) -> dict[str, Any]:
    """Return the output's configuration, for a merge that uses it before it is made."""
    copy: dict[str, Any] = json.loads(json.dumps(config))
    patch = dict(resolved.patch)
    if resolved.vocabulary is not None:
        patch |= _vocabulary_keys(resolved.template, resolved.vocabulary.size)
    for key, value in patch.items():
        _set(copy, key, value)
    return copy


def _vocabulary_keys(model: Model, size: int) -> dict[str, int]:
    inner = model.config.get("text_config")
    nested = isinstance(inner, dict) and "vocab_size" in inner and "vocab_size" not in model.config
    return {"text_config.vocab_size" if nested else "vocab_size": size}


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        table = table.setdefault(part, {})
    table[last] = value


def _drop_key(path: Path, key: str) -> None:
    table = read_json(path)
    if key in table:
        del table[key]
        write_json(path, table)


def _write_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    for file in tokenizer_files(folder):
        file.unlink()
    for file in tokenizer_files(vocabulary.source.path):
        shutil.copyfile(file, folder / file.name)
    if not vocabulary.new:
        return
    table = read_json(folder / "tokenizer.json")
    table["added_tokens"] = [*(table.get("added_tokens") or []), *vocabulary.new]
    write_json(folder / "tokenizer.json", table)
    settings = read_json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        for entry in vocabulary.new:
            rest = {key: value for key, value in entry.items() if key != "id"}
            settings["added_tokens_decoder"][str(entry["id"])] = rest
        write_json(folder / "tokenizer_config.json", settings)
