"""What a model's directory holds besides weights, copied to the directory of a new model."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from taskloom.errors import CheckpointError
from taskloom.store.access import inside
from taskloom.store.atomic import write_json
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.header import strict_json

_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".py", ".vocab", ".bpe"}
#: about the template's own weights, adapter, training or provenance: not true of the new model
_STALE = re.compile(
    r"(.*\.index\.json|adapter_config\.json|taskloom\.json|trainer_state\.json|parts\.json"
    r"|(training_args|all_results|train_results|eval_results).*|requirements.*\.txt)",
)
#: sentence-transformers keeps the configuration of each of its modules in a numbered folder
_MODULE = re.compile(r"\d+_[A-Za-z]+")
_FOLDERS = {"additional_chat_templates"}


def copy_template(
    template: Path, folder: Path, infos: Mapping[str, TensorInfo] | None = None
) -> list[str]:
    """Copy configuration, tokenizer and processor files; never weights, never heads.

    If ``config.json`` names a dtype other than the one all floating-point tensors of ``infos``
    have, the copy names theirs, because transformers loads in the dtype the configuration names.

    Parameters
    ----------
    template
        Directory of the model to copy from.
    folder
        Existing directory to copy into.
    infos
        The tensors that the new directory holds.

    Returns
    -------
    list of str
        What was copied, as paths relative to the folder, sorted.

    Raises
    ------
    CheckpointError
        The template is not a directory, or one of its files is a link to the outside.
    """
    if not template.is_dir():
        raise CheckpointError(
            f"{template}: expected a model's directory to copy the configuration from, found none",
            hint="Check the path",
        )
    copied = sorted(_candidates(template))
    for name in copied:
        source = inside(template, name, named_by=str(template))
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / name)
    if infos is not None and "config.json" in copied:
        _set_dtype(folder / "config.json", infos)
    return copied


def _candidates(template: Path) -> list[str]:
    found = []
    for entry in template.iterdir():
        if entry.is_file():
            found.append(entry.name)
        elif entry.is_dir() and (_MODULE.fullmatch(entry.name) or entry.name in _FOLDERS):
            found += [f"{entry.name}/{each.name}" for each in entry.iterdir() if each.is_file()]
    return [name for name in found if is_template(Path(name).name)]


def is_template(name: str) -> bool:
    """Tell whether a file of this name is copied to a new model.

    >>> is_template("tokenizer.json"), is_template("model.safetensors"), is_template("README.md")
    (True, False, False)
    """
    path = Path(name)
    hidden = path.name.startswith(".")
    return path.suffix in _SUFFIXES and not hidden and not _STALE.fullmatch(path.name)


def _set_dtype(config: Path, infos: Mapping[str, TensorInfo]) -> None:
    kinds = {info.kind for info in infos.values() if info.is_float}
    if len(kinds) != 1:
        return
    try:
        table = strict_json(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{config.name} of the template: expected JSON in UTF-8, but {error}",
            hint="Mend the template's config.json",
        ) from error
    name = kinds.pop()
    stale = [key for key in ("dtype", "torch_dtype") if table.get(key) not in (None, name)]
    if stale:
        write_json(config, table | dict.fromkeys(stale, name))
