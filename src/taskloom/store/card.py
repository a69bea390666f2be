"""The card of a merged model: metadata that the hub reads, recipe and provenance that people read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.errors import CheckpointError
from taskloom.store.access import inside
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.hub import hub_name

CARD = "README.md"

_MAX_CARD = 1_000_000
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class Origin:
    """One model that a merge was made from.

    Attributes
    ----------
    role
        ``base`` or ``expert``.
    name
        What the merge calls it.
    where
        ``owner/name@commit``, or the last part of a local path; never a whole path, which says more
        of the machine than of the model.
    hub
        ``owner/name`` if it is on the hub.
    digest
        SHA-256 of its weights, if it was computed.
    license
        What its own card says, as the hub abbreviates it; None if it has no card or says nothing.
    """

    role: str
    name: str
    where: str
    hub: str | None = None
    digest: str | None = None
    license: str | None = None


def origin_of(role: str, name: str, checkpoint: Checkpoint, *, digest: str | None = None) -> Origin:
    """Describe a checkpoint by its path and the card beside it."""
    path = getattr(checkpoint, "path", None)
    if path is None:
        return Origin(role, name, Path(checkpoint.label).name, None, digest)
    folder = path if Path(path).is_dir() else Path(path).parent
    hub = hub_name(path)
    where = hub or Path(os.path.abspath(path)).name
    return Origin(role, name, where, hub and hub.partition("@")[0], digest, license_of(folder))


def license_of(folder: Path) -> str | None:
    """Return the licence that a directory's card names, None where there is none to be sure of."""
    found = front_matter(folder).get("license")
    if not isinstance(found, str) or not _LICENSE.fullmatch(found) or found in ("other", "unknown"):
        return None
    return found


def front_matter(folder: Path) -> Mapping[str, Any]:
    """Return the metadata at the top of a card; empty if there is none, or it is malformed."""
    import yaml

    if not (folder / CARD).is_file():
        return {}
    try:
        path = inside(folder, CARD, named_by=str(folder))
        with path.open(encoding="utf-8") as stream:
            text = stream.read(_MAX_CARD)
        block = _FRONT.match(text)
        found = yaml.safe_load(block[1]) if block else None
    except (OSError, ValueError, yaml.YAMLError, CheckpointError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def model_card(
    title: str,
    origins: Sequence[Origin],
    recipe: Mapping[str, Any] | str,
    *,
    library: str | None = "transformers",
    composition: str = "",
    version: str = "",
) -> str:
    r"""Return the text of ``README.md`` for a merged model.

    The metadata names the sources that are on the hub; a licence is named only if all sources have
    cards that name the same one.

    Parameters
    ----------
    title
        Heading.
    origins
        The base, if there is one, and the experts in order.
    recipe
        Method and options, or the text of a recipe file; shown verbatim.
    library
        Library that loads the model (``transformers``, ``peft``), None if unknown.
    composition
        The recipe in words of the algebra.
    version
        Of taskloom.

    Examples
    --------
    >>> card = model_card("m", [Origin("expert", "a", "o/a@1", "o/a")], {"method": "average"})
    >>> card.startswith("---\nbase_model:\n- o/a\nbase_model_relation: merge\n")
    True
    """
    import yaml

    shared = {origin.license for origin in origins}
    license_ = shared.pop() if len(shared) == 1 else None
    head: dict[str, Any] = {}
    hubs = list(dict.fromkeys(origin.hub for origin in origins if origin.hub))
    if hubs:
        head |= {"base_model": hubs, "base_model_relation": "merge"}
    if library:
        head["library_name"] = library
    head["tags"] = ["merge", "taskloom"]
    if license_:
        head["license"] = license_
    said = recipe if isinstance(recipe, str) else yaml.safe_dump(dict(recipe), sort_keys=False, width=90)
    made_by = f"Taskloom {version}".strip()
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {_words(title)}\n",
        f"A merge of {_count(origins)}, made with {_words(made_by)}.\n",
        f"## Recipe\n\n{_fenced(said, 'yaml')}",
    ]
    if composition:
        parts.append(f"Composition: {_words(composition)}\n")
    parts.append(f"## Provenance\n\n{_table(origins)}")
    parts.append(f"{_license_sentence(origins, license_)}\n")
    return "\n".join(parts)


def _count(origins: Sequence[Origin]) -> str:
    number = sum(origin.role != "base" for origin in origins)
    text = "1 expert" if number == 1 else f"{number} experts"
    return f"{text} of one base" if number < len(origins) else text


def _table(origins: Sequence[Origin]) -> str:
    rows = [
        "| role | name | source | licence | SHA-256 of the weights |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in origins:
        cells = [each.role, each.name, each.where, each.license or "not stated", each.digest or ""]
        rows.append("| " + " | ".join(_words(cell) for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _license_sentence(origins: Sequence[Origin], license_: str | None) -> str:
    if license_:
        return f"Every source is published under the licence {_words(license_)}."
    if any(origin.license for origin in origins):
        return (
            "The sources state different licences, or some state none; read them before publishing this."
        )
    return "No source states a licence; ask their owners before publishing this."


def _words(text: str) -> str:
    """Show text as it is: nothing in it is markup, and it stays on its line."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$:])", r"\\\1", line)


def _fenced(text: str, language: str) -> str:
    """Put text into a block whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"
