"""Which tensors of a model become low-rank changes: linear layers and embeddings, told from the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from torch import nn

from taskloom.errors import PlanError, nearest
from taskloom.store.checkpoint import Checkpoint

Kind = Literal["linear", "embedding", "rest"]

#: last part of the name of a module that looks rows up
_EMBEDDING = re.compile(
    r"(?!patch)((.*_)?(embedding|embeddings|embed|emb)|embed_.*|w[tp]e|shared|relative_attention_bias)"
)
#: classes of models whose output layer can be their input embedding
_HAS_OUTPUT = re.compile(r"LM|ConditionalGeneration|PreTraining|Seq2Seq")
#: model types whose blocks store weights (in, out), and the names of those modules
_TRANSPOSED = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
_CONV1D = {"c_attn", "c_fc", "c_proj", "q_attn"}


@dataclass(frozen=True)
class Kinds:
    """What each tensor is.

    Attributes
    ----------
    of
        Tensor -> ``linear``, ``embedding`` or ``rest``.
    transposed
        Linear weights are stored (in, out).
    tied
        The model uses its input embedding as output layer too.
    """

    of: Mapping[str, Kind]
    transposed: bool
    tied: bool


def find_kinds(
    source: object,
    base: Checkpoint,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    embeddings: Sequence[str] = (),
    whole: Collection[str] = (),
    fan_in_fan_out: bool | None = None,
) -> Kinds:
    """Tell linear layers and embeddings from the rest.

    Of an ``nn.Module`` the classes of its modules say it. Of stored weights only names and shapes are
    known: a 2-d ``<module>.weight`` is linear, unless its module is called like an embedding
    (``word_embeddings``, ``embed_tokens``, ``wte``, ``shared``, ...) or is named in ``embeddings``.

    Parameters
    ----------
    source
        What the caller gave as base.
    base
        The same, opened.
    include, exclude, embeddings
        Patterns of modules; see `matching`. ``include`` limits the low-rank changes to the modules it
        names, ``exclude`` takes modules out; both leave the tensor to the rest.
    whole
        Modules (names) that belong to the rest with all they hold.
    fan_in_fan_out
        Weights are stored (in, out); by default as the model's type says.
    """
    config = _config(base)
    classes = _classes(source)
    transposed = fan_in_fan_out
    if transposed is None:
        conv1d = any(type(m).__name__ == "Conv1D" for m in classes.values())
        transposed = conv1d or (not classes and config.get("model_type") in _TRANSPOSED)
    modules = modules_of(base.tensors)
    chosen = set(matching(include, modules)) if include else set(modules)
    chosen -= set(matching(exclude, modules))
    named = set(matching(embeddings, modules))
    kinds: dict[str, Kind] = {}
    for name, info in base.tensors.items():
        module, _, leaf = name.rpartition(".")
        kind: Kind = "rest"
        if leaf == "weight" and len(info.shape) == 2 and info.dtype.is_floating_point:
            by_class = classes.get(module)
            if module in named:
                kind = "embedding"
            elif classes:
                kind = _of_class(by_class, transposed)
            else:
                kind = _of_name(module.rpartition(".")[2], transposed and fan_in_fan_out is None)
        held = any(module == each or module.startswith(f"{each}.") for each in whole)
        kinds[name] = kind if module in chosen and not held else "rest"
    return Kinds(kinds, bool(transposed), _tied(config))


def modules_of(tensors: Iterable[str]) -> list[str]:
    """Return every module of a model, those that only hold others included, in stored order."""
    found: dict[str, None] = {}
    for name in tensors:
        parts = name.split(".")
        found.update(dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts))))
    return list(found)


def matching(patterns: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Return the modules that a pattern names: the whole name or its last parts, with ``*`` and ``?``.

    >>> matching(["query", "layer.0.*"], ["layer.0.query", "layer.0.out", "layer.1.query"])
    ['layer.0.query', 'layer.0.out', 'layer.1.query']

    Raises
    ------
    PlanError
        A pattern that names nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        hits = [m for m in modules if fnmatchcase(m, pattern) or fnmatchcase(m, f"*.{pattern}")]
        if not hits:
            guess = nearest(pattern, {module.rpartition(".")[2] for module in modules})
            raise PlanError(
                f"the pattern {pattern!r} matches none of the model's {len(modules)} modules",
                hint=f"Did you mean {guess!r}?" if guess else "Name modules, such as query or h.0.*",
            )
        found.update(hits)
    return [module for module in modules if module in found]


def _tied(config: Mapping[str, Any]) -> bool:
    classes = " ".join(map(str, config.get("architectures") or []))
    return bool(config.get("tie_word_embeddings")) and bool(_HAS_OUTPUT.search(classes))


def _of_name(last: str, conv1d_only: bool) -> Kind:
    if _EMBEDDING.fullmatch(last):
        return "embedding"
    return "rest" if conv1d_only and last not in _CONV1D else "linear"


def _of_class(module: nn.Module | None, transposed: bool) -> Kind:
    if isinstance(module, nn.Embedding):
        return "embedding"
    wanted = type(module).__name__ == "Conv1D" if transposed else isinstance(module, nn.Linear)
    return "linear" if wanted else "rest"


def _classes(source: object) -> dict[str, nn.Module]:
    return dict(source.named_modules()) if isinstance(source, nn.Module) else {}


def _config(base: Checkpoint) -> dict[str, Any]:
    path = getattr(base, "path", None)
    file = Path(path) / "config.json" if path is not None else None
    if file is None or not file.is_file():
        return {}
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return table if isinstance(table, dict) else {}
