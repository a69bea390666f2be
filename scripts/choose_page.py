"""The chooser: from what somebody has to methods, best measured first."""

from __future__ import annotations

from method_pages import DATA, ledger
from texts import NOTE, table

from taskloom.registry import Entry
from taskloom.runs.claims.claim import FAMILIES, record
from taskloom.runs.claims.render import in_points
from taskloom.runs.claims.suitable import (
    EXPERTS,
    HAVE,
    Experts,
    Have,
    data_needed,
    keeps_parts,
    suitable,
)

TITLES: dict[Experts, str] = {
    "full": "Experts are full fine-tunes of different tasks",
    "lora": "Experts are LoRA adapters of different tasks",
    "one task": "Experts are fine-tunes of one task, or snapshots of one run",
}
I_HAVE: dict[Have, str] = {
    "nothing": "no data",
    "unlabeled": "unlabeled inputs of every task",
    "labels": "a few labels of every task",
}
FIRST = 3


def choose_page() -> str:
    """Return the page."""
    text = f"{NOTE}# Which method?\n\nWhat fits follows from what methods are registered to need; the "
    text += "same on the command line:\n\n"
    text += "```sh\ntaskloom methods merge --have labels --experts lora --no-parts\n```\n\n"
    text += _order()
    text += (
        "A method that keeps **parts** (a mask or a low-rank matrix for every task) makes a model for "
    )
    text += (
        "each task: it is for those who know the task of an input. An option `scale` that is chosen on "
    )
    text += "validation takes a few labels, too; without any, its default stands.\n"
    for experts, title in TITLES.items():
        text += f"\n## {title}\n\n{_short(experts)}\n### All that fit\n\n{_all(experts)}"
    return text


def _order() -> str:
    if not ledger().rows:
        return (
            "Nothing has been measured yet ([claims](claims.md)), so methods are listed by family, in "
            "the order of the [index](methods/index.md), and none is recommended over another.\n\n"
        )
    return (
        "Methods are ordered by our own measurements: the mean of normalised accuracy on the suites' "
        "experts of the same kind ([claims](claims.md)). Intervals of neighbours overlap; the order is "
        "no proof. What was not measured on such experts comes last, by family.\n\n"
    )


def _rank(entry: Entry, experts: Experts) -> tuple[bool, float, int, str]:
    mean = ledger().together(entry.name, experts)
    value = 0.0 if mean is None else -mean.value
    return mean is None, value, FAMILIES.index(record(entry.name).family), entry.name


def _ordered(have: Have, experts: Experts, *, parts: bool) -> list[Entry]:
    return sorted(suitable(have, experts, parts=parts), key=lambda each: _rank(each, experts))


def _short(experts: Experts) -> str:
    """Return the table that leads from data and parts to the first few methods."""
    measured = any(ledger().of_kind(experts))
    columns = ["I have", "one model for all tasks", "parts for every task may be kept"]
    if experts == "one task":
        columns = columns[:2]
    rows = []
    for have in HAVE:
        row = [I_HAVE[have]]
        for parts in (False, True)[: len(columns) - 1]:
            found = _ordered(have, experts, parts=parts)
            row.append(_links(found[:FIRST]) if measured else _counted(have, experts, found))
        rows.append(row)
    return table(columns, rows)


def _counted(have: Have, experts: Experts, found: list[Entry]) -> str:
    """Without measurements: how many fit, and which of them use the data."""
    using = [each for each in found if have != "nothing" and data_needed(each) == have]
    said = f"{len(found)} methods"
    return f"{said}; using the data: {_links(using)}" if using else said


def _all(experts: Experts) -> str:
    rows = []
    for entry in _ordered("labels", experts, parts=True):
        mean = ledger().together(entry.name, experts)
        rows.append(
            [
                _links([entry]),
                entry.summary.replace("``", "`"),
                DATA[data_needed(entry)],
                "yes" if keeps_parts(entry) else "",
                "" if mean is None else in_points(mean),
                record(entry.name).family,
            ]
        )
    columns = ["method", "what it does", "data it needs", "parts", "normalised accuracy, %", "family"]
    return table(columns, rows)


def _links(found: list[Entry]) -> str:
    return ", ".join(f"[`{entry.name}`](methods/{entry.name}.md)" for entry in found)


assert set(TITLES) == set(EXPERTS)
