"""What ``taskloom.json`` and the model card say of a mergekit file's merge, and the way back from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskloom import __version__
from taskloom.errors import CheckpointError, TaskloomError
from taskloom.evaluation.strict import parse
from taskloom.merging.plan import MergePlan, plan_program
from taskloom.merging.verify import read_record
from taskloom.runs.mergekit.models import Model, open_model
from taskloom.runs.mergekit.reading import Document, load_text
from taskloom.runs.mergekit.resolve import Resolved, resolve_configuration
from taskloom.runs.mergekit.schema import MergeConfiguration, ModelName
from taskloom.store.card import CARD, Origin, model_card, origin_of

#: the key under ``sources`` and ``recipe.options`` that tells such a merge from one of a pool
KEY = "mergekit"


def recipe_of(document: Document, resolved: Resolved) -> dict[str, Any]:
    """Return the recipe: method, chains, the file's text, and where tokens' rows come from."""
    chains = dict.fromkeys(str(chain) for chain, _ in resolved.program.groups if chain is not None)
    options = {KEY: document.text}
    if resolved.vocabulary is not None:
        options["vocabulary"] = resolved.vocabulary.placing()
    return {
        "method": document.config.merge_method,
        "composition": "; ".join(chains) or "copy",
        "options": options,
    }


def sources_of(models: Mapping[ModelName, Model], *, seed: int, nan: str) -> dict[str, Any]:
    """Return where every model of the file was found, by the name the file gives it."""
    found = {
        str(name): {"path": model.source, "adapter": model.adapter} for name, model in models.items()
    }
    return {KEY: found, "seed": seed, "nan": nan}


def rebuild(record: Mapping[str, Any]) -> MergePlan:
    """Return the plan of a recorded merge; what `taskloom.merging.verify` makes it again from.

    Raises
    ------
    CheckpointError
        A model is gone, or is not what the file needs any more.
    """
    places: Mapping[str, Any] = record["sources"][KEY]
    where = "the recorded mergekit file"
    ((value, _),) = load_text(where, record["recipe"]["options"][KEY])
    config = parse(MergeConfiguration, value, where=where)

    opened: dict[ModelName, Model] = {}

    def find(name: ModelName) -> Model:
        if str(name) not in places:
            raise CheckpointError(
                f"{name}: the record does not say where this model was", hint="Merge again"
            )
        if name not in opened:
            opened[name] = open_model(name, allow_pickle=True, at=places[str(name)])
        return opened[name]

    resolved = resolve_configuration(config, find, where=where, seed=record["sources"]["seed"])
    return plan_program(resolved.program)


def is_current(place: Path, recipe: Mapping[str, Any], sources: Mapping[str, Any]) -> bool:
    """Say whether a directory holds this merge, of inputs that have not changed since, undamaged.

    Recipe and sources must be the recorded ones, input files have the recorded size and time, and
    output files the recorded size.
    """
    try:
        record = read_record(place)
    except TaskloomError:
        return False
    if record["recipe"] != recipe or record["sources"] != sources:
        return False
    written = record["outputs"]["files"]
    if any(_size(place / name) != entry["bytes"] for name, entry in written.items()):
        return False
    read = [file for entry in record["inputs"] for file in entry["files"]]
    return all(_mark(Path(f["path"])) == (f["bytes"], f["mtime_ns"]) for f in read)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _mark(path: Path) -> tuple[int, int] | None:
    if not path.is_file():
        return None
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def write_card(
    folder: Path, title: str, document: Document, resolved: Resolved, models: Sequence[Model]
) -> None:
    """Write the model card: the file's text as the recipe, the models as the provenance."""
    base = document.config.base_model
    origins: list[Origin] = []
    for model in models:
        role = "base" if model.name == base else "expert"
        origins.append(origin_of(role, str(model.name), model.checkpoint))
    library = "transformers" if (folder / "config.json").is_file() else None
    text = model_card(
        title,
        origins,
        document.text,
        library=library,
        composition=str(recipe_of(document, resolved)["composition"]),
        version=__version__,
    )
    (folder / CARD).write_text(text, encoding="utf-8")
