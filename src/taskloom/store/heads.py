"""Task heads: set aside before a merge, kept beside the merged model, and put on it again.

Experts of one encoder that learned different tasks differ in their last module: one has two labels,
another seven, a third finds spans. Those tensors have no counterpart to be merged with. They are kept
as they are, one folder per expert under ``heads``, and `attach_head` makes the model of a task of the
merged encoder and one of them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taskloom.errors import CheckpointError, PlanError, nearest
from taskloom.lazy import Tensor
from taskloom.store.access import info_of, inside
from taskloom.store.atomic import write_json
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.header import strict_json
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.writer import write_model, write_safetensors

FOLDER = "heads"
WEIGHTS = "head.safetensors"
CONFIG = "config.json"
#: what the module of a task is called by transformers, timm and torchvision, at the top of a model
NAMES = (
    *("classifier", "pre_classifier", "score", "qa_outputs", "classification_head"),
    *("cls", "head", "heads", "fc"),
)


class PartCheckpoint:
    """Some of a checkpoint's tensors, possibly under other names.

    Parameters
    ----------
    inner
        The checkpoint.
    names
        Name here -> name there.
    """

    def __init__(self, inner: Checkpoint, names: Mapping[str, str]) -> None:
        self._inner = inner
        self._names = dict(names)
        self._tensors = {here: inner.tensors[there] for here, there in self._names.items()}

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
        """The inner checkpoint's weight files, if it has any."""
        return tuple(getattr(self._inner, "files", ()))

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names of tied tensors, where both are part."""
        here = {there: each for each, there in self._names.items()}
        known: Mapping[str, str] = getattr(self._inner, "aliases", {})
        return {alias: here[name] for alias, name in known.items() if name in here}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype by the name here."""
        return MappingProxyType(self._tensors)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return the tensor, or the given rows along axis 0.

        Raises
        ------
        CheckpointError
            There is no such tensor.
        """
        info_of(self._tensors, name, self.label)
        return self._inner.read(self._names[name], rows)

    def digest(self) -> str:
        """Return the inner checkpoint's digest."""
        return self._inner.digest()


@dataclass(frozen=True)
class Split:
    """A model in two.

    Attributes
    ----------
    body
        What is merged, under the names that the other bodies have.
    head
        Names of the tensors of the head, as the model has them.
    own
        What the model puts before the body's names.
    common
        What the body has before its names instead.
    """

    whole: Checkpoint
    body: Checkpoint
    head: tuple[str, ...]
    own: str = ""
    common: str = ""


def split_heads(models: Sequence[Checkpoint], modules: Sequence[str] = NAMES) -> tuple[Split, ...]:
    """Set the heads of models aside.

    Where one model was saved within a wrapper (``bert.encoder...``) and the first one was not, or the
    other way round, the bodies get the names of the first.

    Parameters
    ----------
    models
        The one whose names count first.
    modules
        Names of the modules that are heads, from the top of the model: ``classifier`` is
        ``classifier.weight``, not ``layers.0.classifier.weight``.

    Raises
    ------
    PlanError
        A name that is no module of any model; without names, those that `NAMES` lists are optional.
    CheckpointError
        A model that is nothing but a head.
    """
    if modules is not NAMES:
        known = {name for model in models for name in model.tensors}
        for module in modules:
            if not any(_within(name, module) for name in known):
                parts = {name.rpartition(".")[0] for name in known}
                guess = nearest(module, parts)
                raise PlanError(
                    f"heads: no model has a module {module!r}",
                    hint=f"Did you mean {guess!r}?" if guess else "Name it as its tensors are named",
                )
    found: list[Split] = []
    for model in models:
        head = tuple(n for n in model.tensors if any(_within(n, module) for module in modules))
        body = [name for name in model.tensors if name not in head]
        if not body:
            raise CheckpointError(
                f"{model.label}: all tensors belong to the head, so nothing is left to be merged",
                hint="Name fewer modules as heads",
            )
        wanted = list(found[0].body.tensors) if found else body
        own, common = _wrapping(body, wanted)
        names = {common + name.removeprefix(own): name for name in body}
        found.append(Split(model, PartCheckpoint(model, names), head, own, common))
    return tuple(found)


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _wrapping(names: Sequence[str], wanted: Sequence[str]) -> tuple[str, str]:
    """Return what stands before the names, and before the wanted ones, so that most are the same."""
    choices = [("", "")]
    for side, each in enumerate((names, wanted)):
        tops = {name.partition(".")[0] for name in each}
        if len(tops) == 1:
            top = f"{tops.pop()}."
            choices.append(("", top) if side else (top, ""))

    def same(choice: tuple[str, str]) -> int:
        own, common = choice
        return len({common + name.removeprefix(own) for name in names} & set(wanted))

    return max(choices, key=same)


def write_heads(folder: Path, heads: Mapping[str, Split]) -> list[str]:
    """Write the head of every expert that has one to ``heads/<expert>`` in a model's folder.

    Returns
    -------
    list of str
        Names of the folders.

    Raises
    ------
    CheckpointError
        Two experts whose names give one folder.
    """
    written: dict[str, str] = {}
    shutil.rmtree(folder / FOLDER, ignore_errors=True)  # an interrupted merge may have left some
    for name, split in heads.items():
        if not split.head:
            continue
        place = folder_name(name)
        if place in written:
            raise CheckpointError(
                f"the heads of {written[place]!r} and {name!r} would both be {FOLDER}/{place}",
                hint="Give the experts other names",
            )
        written[place] = name
        target = folder / FOLDER / place
        target.mkdir(parents=True)
        infos = {each: split.whole.tensors[each] for each in split.head}
        said = {"format": "pt", "expert": name, "own": split.own, "common": split.common}
        tensors = ((each, split.whole.read(each)) for each in infos)
        write_safetensors(target / WEIGHTS, infos, tensors, said)
        source = getattr(split.whole, "path", None)
        if source is not None and (Path(source) / CONFIG).is_file():
            shutil.copyfile(inside(Path(source), CONFIG, named_by=str(source)), target / CONFIG)
    return list(written)


def folder_name(expert: str) -> str:
    """Return the folder of an expert's head.

    >>> folder_name("out/spam mails")
    'out-spam-mails'
    """
    return re.sub(r"[^\w.-]+", "-", expert).strip("-.") or "head"


def attach_head(
    directory: str | Path, expert: str, output: str | Path, *, overwrite: bool = False
) -> Path:
    """Make the model of one task: the merged body with the head of an expert.

    Parameters
    ----------
    directory
        A merged model with ``heads``.
    expert
        Whose head.
    output
        Directory to make; it has the expert's configuration and the merged model's tokenizer.
    overwrite
        Replace what is there.

    Raises
    ------
    CheckpointError
        There is no such head; the message offers the nearest.
    OutputError
        The output exists or cannot be written.
    """
    merged = Path(directory)
    known = sorted(each.name for each in (merged / FOLDER).glob("*") if (each / WEIGHTS).is_file())
    place = folder_name(expert)
    if place not in known:
        guess = nearest(place, known)
        there = f"There are: {', '.join(known)}" if known else "Merge with heads kept (--heads keep)"
        raise CheckpointError(
            f"{merged}: there is no head of {expert!r}",
            hint=f"Did you mean {guess!r}?" if guess else there,
        )
    relative = f"{FOLDER}/{place}/{WEIGHTS}"
    head = SafetensorsCheckpoint(inside(merged, relative, named_by=str(merged)))
    own, common = head.metadata.get("own", ""), head.metadata.get("common", "")
    body = SafetensorsCheckpoint(merged)
    names = {own + name.removeprefix(common): name for name in body.tensors}
    infos = {here: body.tensors[there] for here, there in names.items()} | dict(head.tensors)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for here, there in names.items():
            yield here, body.read(there)
        for name in head.tensors:
            yield name, head.read(name)

    def extra(folder: Path) -> None:
        config = merged / FOLDER / place / CONFIG
        if config.is_file():
            write_json(folder / CONFIG, _config(config, folder / CONFIG))

    return write_model(
        Path(output), infos=infos, tensors=tensors(), template=merged, overwrite=overwrite, extra=extra
    )


def _config(head: Path, body: Path) -> dict[str, Any]:
    """Return the expert's configuration, with the number of tokens and the dtype of the body's."""
    found: dict[str, Any] = strict_json(head.read_text(encoding="utf-8"))
    below = json.loads(body.read_text(encoding="utf-8")) if body.is_file() else {}
    shared = [key for key in ("vocab_size", "dtype", "torch_dtype") if key in below and key in found]
    return found | {key: below[key] for key in shared}
