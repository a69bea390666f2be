"""Hand a winner over: an ordinary Hugging Face directory with its heads, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from taskloom import __version__
from taskloom.errors import CheckpointError
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head, head_names
from taskloom.runs.candidates import Candidate
from taskloom.runs.result import HandoverRecord
from taskloom.runs.snippets import Reproduction
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
    reproduction: Reproduction,
    card: str,
) -> tuple[HandoverRecord, bool]:
    """Write the directory unless it is there already, with the same weights, tokenizer and heads.

    Returns
    -------
    (record, whether it was written now)
    """
    script = reproduction.script()
    heads_digest = [head.digest() for head in heads]
    key = canonical_digest([candidate.digest, encoder.digest(), heads_digest, card, script])
    written = not _is_whole(target, key, heads)
    if written:
        weights = candidate.weights()
        tensors = SafetensorsCheckpoint(encoder.directory).tensors

        def extra(folder: Path) -> None:
            for head in heads:
                head.save(folder)
            (folder / "README.md").write_text(card, encoding="utf-8")
            (folder / "reproduce.py").write_text(script, encoding="utf-8")
            write_json(
                folder / NOTE,
                {
                    "taskloom": __version__,
                    "run": run,
                    "model": candidate.record().model_dump(mode="json"),
                    "heads": [head.task for head in heads],
                    "reproduces": str(reproduction),
                    "key": key,
                    "weights": SafetensorsCheckpoint(folder).digest(),
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
        path=f"{target.parent.name}/{target.name}",
        model=candidate.name,
        heads=[head.task for head in heads],
        digest=SafetensorsCheckpoint(target).digest(),
        snippet=reproduction.script(str(target)),
        reproduces=str(reproduction),
    )
    return record, written


def _is_whole(target: Path, key: str, heads: Sequence[Head]) -> bool:
    """Tell whether the directory is what ``key`` says and nobody has changed its weights since."""
    try:
        note = json.loads((target / NOTE).read_text("utf-8"))
        return (
            note["key"] == key
            and note["weights"] == SafetensorsCheckpoint(target).digest()
            and {head.task for head in heads} == set(head_names(target))
        )
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return False
