"""A page for every merging method, and the index of these pages by family."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

from texts import NOTE, ROOT, code, experts, options, prose, section, table

from taskloom import registry
from taskloom.catalogue import describe
from taskloom.registry import Entry
from taskloom.runs.claims.claim import FAMILIES, Claim, Record, record, records
from taskloom.runs.claims.ledger import Ledger
from taskloom.runs.claims.render import SEEN, check_in_words, in_points
from taskloom.runs.claims.results import read_results
from taskloom.runs.claims.suitable import data_needed, keeps_parts

RESULTS = ROOT / "benchmarks" / "results" / "claims.json"
LEGEND = (
    "θ₀ is the base, θₖ expert k of K, τₖ its task vector (expert less base), λ the option `scale`, ⊙ "
    "the product entry by entry, 1[·] one where it is true."
)
MEANT = {
    "tasks": "experts of several tasks",
    "one task": "fine-tunes of one task",
    "one run": "snapshots of one run",
    "rewards": "experts of several rewards",
    "edits": "an edit of the base",
    "pair": "a pair of models",
}
DATA = {"nothing": "none", "unlabeled": "unlabeled inputs of every task", "labels": "labels"}


@lru_cache
def ledger() -> Ledger:
    """Return the claims held against the project's own results."""
    return Ledger(read_results(RESULTS))


def index_page() -> str:
    """List the methods, family by family."""
    text = f"{NOTE}# Merging methods\n\n{len(records())} methods, one file and one page each. "
    text += "[Which one?](../choose.md) leads from what you have to methods that fit; "
    text += "[claims](../claims.md) says what their papers claim and what we measured.\n"
    for family in FAMILIES:
        rows = [
            [f"[`{name}`]({name}.md)", _entry(name).summary.replace("``", "`"), _meant(found)]
            for name, found in sorted(records().items())
            if found.family == family
        ]
        text += f"\n## {family.capitalize()}\n\n" + table(["method", "what it does", "for"], rows)
    return text


def method_page(name: str) -> str:
    """Return the page of one method."""
    entry, found = _entry(name), record(name)
    told = inspect.getdoc(entry.function) or ""
    text = f"{NOTE}# {name}\n\n{prose(told)}\n"
    text += f"## Equation\n\n```text\n{section(told, 'Equation')}\n```\n\n{LEGEND}\n\n"
    text += f"## When to use it\n\n{section(told, 'When to use')}\n\n"
    text += f"## When not\n\n{section(told, 'When not')}\n\n"
    text += _facts(entry, found) + _options(entry) + _claims(name, found)
    return text + _example(entry) + _links(found)


# --- parts of a page --------------------------------------------------------------------------


def _entry(name: str) -> Entry:
    return registry.get("merge", name)


def _meant(found: Record) -> str:
    return ", ".join(MEANT[each] for each in found.merges)


def _facts(entry: Entry, found: Record) -> str:
    told = describe(entry)
    rows = [
        ("Source", entry.paper),
        ("Family", found.family),
        ("For", _meant(found)),
        ("Needs", ", ".join(entry.needs)),
        ("Data beside the weights", DATA[data_needed(entry)]),
        ("Parts kept for every task", "yes" if keeps_parts(entry) else "no"),
        ("Composition at the defaults", code(told["composition"])),
        ("Grain", told["grain"]),
        ("Reads of every tensor", told["reads"]),
        ("Experts", experts(*told["experts"])),
        ("Module", code(told["module"])),
    ]
    return "## Facts\n\n" + table(["", ""], [[f"**{label}**", value] for label, value in rows]) + "\n"


def _options(entry: Entry) -> str:
    told: list[dict[str, Any]] = describe(entry)["parameters"]
    return f"## Options\n{options(told) or chr(10) + 'None.' + chr(10)}\n"


def _claims(name: str, found: Record) -> str:
    text = "## Claim and verdict\n\n"
    for claim in found.claims:
        text += f"> {claim.sentence}\n>\n> {claim.source}, {claim.where}; {SEEN[claim.seen]}.\n\n"
        text += _verdicts(name, claim)
    return text + _measured(name) + "All of it is on the page of [claims](../claims.md).\n\n"


def _verdicts(name: str, claim: Claim) -> str:
    lines = []
    for kind, verdict in ledger().verdicts(name, claim).items():
        about = f"{kind} experts: " if kind else ""
        why = f" ({verdict.why})" if verdict.why else ""
        lines.append(f"- {about}**{verdict.word}**{why}")
    checked = check_in_words(claim.check)
    lines.insert(0, f"- Checked: {checked}." if claim.check.kind != "untestable" else "")
    return "\n".join(line for line in lines if line) + "\n\n"


def _measured(name: str) -> str:
    rows = []
    for scope in ledger().scopes:
        found = ledger().measurement(name, scope)
        if found is not None and found.accuracy is not None and found.normalised is not None:
            pool = f"{scope.suite}, {scope.experts}, {scope.count} tasks"
            numbers = in_points(found.accuracy), in_points(found.normalised)
            rows.append([pool, *numbers, found.normalised.n])
        elif found is not None:
            rows.append([f"{scope.suite}, {scope.experts}", found.failed, "", ""])
    columns = ["suite, experts", "accuracy, %", "normalised, %", "n"]
    return table(columns, rows) + "\n" if rows else ""


def _example(entry: Entry) -> str:
    most = describe(entry)["experts"][1]
    given = ["mood", "topic", "spam"][: most or 2]
    words = ["--base base", *(f"--expert {name}={name}-model" for name in given)]
    text = "## Try it\n\n```sh\n"
    adapters = "adapters" in entry.needs
    for need in entry.needs:
        kind, _, statistic = need.partition(" ")
        if kind != "statistic":
            continue
        for name in given:
            file = f"{name}-{statistic}"
            text += f"taskloom collect {statistic} --base base --model {name}-model --task {name}.yaml"
            if statistic == "sensitivity":
                others = [other for other in given if other != name]
                text += "".join(f" --against {other}={other}-model" for other in others)
            text += f" -o {file}\n"
            words.append(f"--statistic {name}={file}")
    words.append(f"--method {entry.name}" + " --as-adapter" * adapters)
    text += f"taskloom merge {' '.join(words)} -o merged\n"
    if keeps_parts(entry):
        pair = " ".join(words[: 1 + len(given)])
        text += f"taskloom parts {pair} --method {entry.name} -o parts\n"
    return text + "```\n\n"


def _links(found: Record) -> str:
    return "## Links\n\n" + "".join(f"- <{link}>\n" for link in found.links)


#: path below docs/ -> what is written there
METHOD_PAGES = {"methods/index.md": index_page} | {
    f"methods/{entry.name}.md": lambda name=entry.name: method_page(name)
    for entry in registry.entries("merge")
}
