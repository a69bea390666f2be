"""``taskloom tasks``: list the tasks that are declared."""

from __future__ import annotations

import taskloom
from taskloom.cli import options, output


@options.verb("tasks", example="taskloom tasks --json")
@options.as_json
def command(as_json: bool) -> None:
    """List the tasks that are declared: what they are, their labels, source and licence."""
    found = taskloom.tasks()
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        f"{len(found)} tasks",
        ["name", "title", "input", "classes>", "metric", "source", "data licence"],
        [
            [
                task.name,
                task.title,
                task.modality,
                len(task.label_names),
                task.metric,
                task.source_summary,
                task.license.data,
            ]
            for task in found
        ],
    )
