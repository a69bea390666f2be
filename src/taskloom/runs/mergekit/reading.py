"""Read a mergekit file: its documents, in the order in which they can be carried out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.errors import PlanError
from taskloom.evaluation.strict import parse
from taskloom.runs.mergekit.schema import MergeConfiguration


@dataclass(frozen=True)
class Document:
    """One document of the file: what it says, and its text."""

    config: MergeConfiguration
    text: str

    @property
    def name(self) -> str | None:
        """The intermediate merge's name; None for the final one."""
        return self.config.name


def looks_like_mergekit(path: str | Path) -> bool:
    """Say whether a file is YAML with a top-level ``merge_method``."""
    file = Path(path)
    if not file.is_file() or file.suffix.lower() not in (".yml", ".yaml"):
        return False
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.startswith(("merge_method:", "merge_method :")) for line in lines)


def read_documents(path: str | Path) -> list[Document]:
    """Read and check every document of a file, each after those whose results it uses.

    Raises
    ------
    PlanError
        Not YAML, a key given twice, unknown or impossible; names used twice or in a circle; several
        documents without a name.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{file}: cannot be read: {error}", hint="Check the path") from None
    documents = []
    for number, (value, part) in enumerate(load_text(file, text), start=1):
        where = str(file) if number == 1 else f"{file}, document {number}"
        documents.append(Document(parse(MergeConfiguration, value, where=where), part))
    if not documents:
        raise PlanError(f"{file}: is empty", hint="Give merge_method and models")
    return _in_order(file, documents)


def load_text(file: str | Path, text: str) -> list[tuple[Any, str]]:
    """Return every document of a text as plain data and as it is written.

    Raises
    ------
    PlanError
        Not YAML, or a key given twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen and key.value != "<<":
                    raise PlanError(
                        f"{file}: line {key.start_mark.line + 1}: {key.value!r} is given twice"
                    )
                seen.add(key.value)
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    try:
        nodes = [node for node in yaml.compose_all(text, Loader) if node is not None]
        builder = Loader("")
        values = [builder.construct_document(node) for node in nodes]
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "malformed"
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise PlanError(f"{file}{at}: is not YAML: {reason}", hint="Mend the file") from None
    if len(nodes) == 1:
        return [(values[0], text.strip() + "\n")]
    parts, before = [], 0
    for node in nodes:  # from the start of its first line, as the indentation counts
        start = node.start_mark.index - node.start_mark.column
        remarks = re.split(r"(?m)^(?:---|\.\.\.).*$", text[before:start])[-1]
        before = node.end_mark.index
        parts.append((remarks + text[start:before]).strip("\r\n") + "\n")
    return list(zip(values, parts, strict=True))


def _in_order(file: Path, documents: list[Document]) -> list[Document]:
    named: dict[str | None, Document] = {d.name: d for d in documents if d.name is not None}
    final = [d for d in documents if d.name is None]
    if len(final) > 1:
        raise PlanError(
            f"{file}: {len(final)} documents have no name",
            hint="Name each but the one that makes the output",
        )
    if len(named) + len(final) != len(documents):
        raise PlanError(f"{file}: two documents have one name", hint="Give each its own name")
    for name in named:
        if not name or "/" in name or name.startswith("."):
            raise PlanError(f"{file}: {name!r} cannot be a folder's name", hint="Take another name")
    done: dict[int, Document] = {}
    for document in documents:
        _visit(file, document, named, done, ())
    return list(done.values())


def _visit(
    file: Path,
    document: Document,
    named: Mapping[str | None, Document],
    done: dict[int, Document],
    path: tuple[str, ...],
) -> None:
    if id(document) in done:
        return
    name = document.name or "the output"
    if name in path:
        circle = " -> ".join([*path[path.index(name) :], name])
        raise PlanError(f"{file}: merges need each other in a circle: {circle}", hint="Break it")
    for model in document.config.referenced:
        if model.path in named:
            _visit(file, named[model.path], named, done, (*path, name))
    done[id(document)] = document
