"""Hand the winner over: its weights and head as an ordinary directory, with card and script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from taskloom.runs.auto.ending import Final, Tested
from taskloom.runs.auto.workbench import Workbench
from taskloom.runs.handover import hand_over
from taskloom.runs.result import ScoreRecord
from taskloom.runs.snippets import Reproduction, card


def hand_winner(
    bench: Workbench,
    final: Final,
    tested: Tested,
    folder: Path,
    *,
    source: str,
    arguments: Mapping[str, int | None],
    headline: str,
    reason: str,
) -> Path:
    """Write the directory, unless it is there already, and return where it is.

    Parameters
    ----------
    source
        The target as it was named.
    arguments
        Of `load_task`, that give the same test examples.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    encoder, task = bench.desk.reader.encoder, bench.ground.data.task
    name = final.candidate.name
    own = next(s for s in tested.scores if s.model == name)
    path = Path(source)
    reproduction = Reproduction(
        score=ScoreRecord(**asdict(own)),
        task_source=str(path.resolve()) if path.is_file() else source,
        arguments=arguments,
        evaluation=bench.desk.reader.options,
        pooling=encoder.settings.pooling if encoder.modality == "text" else None,
    )
    record = final.candidate.record()
    made = record.title
    if record.method:
        made = f"Made by {record.method}: `{record.composition}`"
    target = folder / "handover" / task.name
    hand_over(
        target,
        final.candidate,
        [final.head],
        encoder,
        run=folder.name,
        reproduction=reproduction,
        card=card(
            title=f"{task.title}: {final.candidate.title}",
            headline=f"{headline}\n\n{reason[0].upper()}{reason[1:]}.",
            base=encoder.directory.name,
            recipe=made,
            scores=[
                f"{s.model}: {s.metric} {s.value:.4f} (95 % {s.low:.4f} to {s.high:.4f}, n = {s.n})"
                for s in tested.scores
            ],
            licenses=[f"{task.name}: {task.source_summary}; {task.license.data}"],
        ),
    )
    return target
