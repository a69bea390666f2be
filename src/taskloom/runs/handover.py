"""Hand a winner over: an ordinary Hugging Face directory with its heads, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from taskloom import __version__
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.runs.candidates import Candidate
from taskloom.runs.result import HandoverRecord
from taskloom.store.atomic import write_json
from taskloom.store.cache import canonical_digest
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.writer import write_model

NOTE = "taskloom.json"


def hand_over(
    target: Path,
    candidate: Candidate,
    heads: Sequence[Head],
    encoder: Encoder,
    *,
    run: str,
    reproduces: str,
    snippet: str,
    card: str,
) -> tuple[HandoverRecord, bool]:
    """Write the directory unless it is there already, with the same weights and heads.

    Returns
    -------
    (record, whether it was written now)
    """
    key = canonical_digest([candidate.digest, [head.digest() for head in heads], card, snippet])
    note = target / NOTE
    relative = f"{target.parent.name}/{target.name}"
    written = not (note.is_file() and json.loads(note.read_text("utf-8")).get("key") == key)
    if written:
        weights = candidate.weights()
        tensors = SafetensorsCheckpoint(encoder.directory).tensors

        def extra(folder: Path) -> None:
            for head in heads:
                head.save(folder)
            (folder / "README.md").write_text(card, encoding="utf-8")
            (folder / "reproduce.py").write_text(snippet, encoding="utf-8")
            write_json(
                folder / NOTE,
                {
                    "taskloom": __version__,
                    "run": run,
                    "model": candidate.record().model_dump(mode="json"),
                    "heads": [head.task for head in heads],
                    "reproduces": reproduces,
                    "key": key,
                },
            )

        write_model(
            target,
            infos=tensors,
            tensors=((name, weights[name].to(info.dtype)) for name, info in tensors.items()),
            template=encoder.directory,
            overwrite=True,
            extra=extra,
        )
    record = HandoverRecord(
        path=relative,
        model=candidate.name,
        heads=[head.task for head in heads],
        digest=SafetensorsCheckpoint(target).digest(),
        snippet=snippet,
        reproduces=reproduces,
    )
    return record, written
