"""The generated pages of docs/, each a function from the code to Markdown."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click
from choose_page import choose_page
from method_pages import METHOD_PAGES, RESULTS, ledger
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from texts import NOTE, ROOT, code, experts, options, prose, table

from taskloom import errors, registry
from taskloom.catalogue import methods, spell, spell_bounds, tasks
from taskloom.cli import main as cli
from taskloom.evaluation.task import Task
from taskloom.runs.claims.ledger import Ledger
from taskloom.runs.claims.render import claims_page, learned_page
from taskloom.runs.claims.results import read_results
from taskloom.runs.plan import Plan
from taskloom.runs.transfer.render import leaderboard_page, read_all
from taskloom.systems import Standing, standings

# --- methods -----------------------------------------------------------------------------------


def methods_page() -> str:
    """Everything registered, family by family."""
    text = f"{NOTE}# Methods\n\nEverything that has a name in a plan or on the command line. "
    text += "`taskloom methods --json` prints the same for machines.\n"
    found = methods()
    for family, kind in registry.KINDS.items():
        members = [entry for entry in found if entry["family"] == family]
        text += f"\n## {kind.capitalize()}s\n\n"
        text += table(["name", "what it does"], map(_row, members))
        if family == "merge":
            text += "\nEvery merging method has [a page of its own](../methods/index.md).\n"
        else:
            text += "".join(_entry(entry) for entry in members)
    return text


def _row(entry: dict[str, Any]) -> list[str]:
    name, family = entry["name"], entry["family"]
    link = f"../methods/{name}.md" if family == "merge" else f"#{family}-{name}"
    return [f"[`{name}`]({link})", entry["summary"].replace("``", "`")]


def _entry(entry: dict[str, Any]) -> str:
    name, family = entry["name"], entry["family"]
    text = f"\n### `{name}` {{ #{family}-{name} }}\n\n"
    text += prose(inspect.getdoc(registry.get(family, name).function) or "")
    facts = [("Source", entry["paper"]), ("Needs", ", ".join(entry["needs"]))]
    if entry["reads"]:
        facts += [
            ("Composition at the defaults", code(entry["composition"])),
            ("Grain", entry["grain"]),
            ("Reads of every tensor", entry["reads"]),
            ("Experts", experts(*entry["experts"])),
        ]
    facts.append(("Module", code(entry["module"])))
    text += "\n" + "".join(f"- **{label}:** {value}\n" for label, value in facts if value)
    return text + options(entry["parameters"])


# --- command line ------------------------------------------------------------------------------


def cli_page() -> str:
    """Every verb with its options."""
    text = f"{NOTE}# Command line\n\n```text\n{_help(cli.taskloom, 'taskloom')}\n```\n"
    for verb in cli.VERBS:
        command: click.Command = import_module(f"taskloom.cli.{verb}").command
        text += f"\n## taskloom {verb}\n\n```text\n{_help(command, f'taskloom {verb}')}\n```\n"
    return text


def _help(command: click.Command, name: str) -> str:
    # the names of the help option as a user sees them: click remembers those of the first context
    with click.Context(
        command,
        info_name=name,
        max_content_width=98,
        terminal_width=98,
        help_option_names=cli.taskloom.context_settings["help_option_names"],
    ) as context:
        return command.get_help(context)


# --- plan, tasks -------------------------------------------------------------------------------


def plan_page() -> str:
    """Every key of a plan, section by section."""
    text = f"{NOTE}# Plan\n\nA plan is one YAML file; `taskloom run plan.yaml` carries it out, "
    text += "or, if it says what is fitted (`fit`), `taskloom fit plan.yaml`. "
    text += "An unknown key is an error that offers the nearest right one.\n"
    return text + _schema(Plan)


def tasks_page() -> str:
    """List the built-in tasks and the keys of an annotation."""
    text = f"{NOTE}# Tasks\n\nA task is declared, not coded: a YAML annotation names its source, "
    text += "columns, labels, split and metric. These come with the package; the path of a file "
    text += "of your own works wherever a name does. Package and data have licences of their own.\n\n"
    found = tasks()
    text += table(
        ["name", "what", "input", "classes", "metric", "source", "package licence", "data licence"],
        [
            [
                code(task.name),
                task.title,
                task.modality,
                len(task.label_names),
                task.metric,
                task.source_summary,
                task.license.package,
                task.license.data,
            ]
            for task in found
        ],
    )
    for task in found:
        text += f"\n### `{task.name}`\n\n{task.description}\n\n"
        text += f"Labels: {', '.join(code(label) for label in task.label_names)}.\n"
        if task.overlaps:
            text += f"Shares inputs with {', '.join(map(code, task.overlaps))}.\n"
        if task.citation:
            text += f"Source: {task.citation}\n"
    return f"{text}\n## The keys of an annotation\n{_schema(Task)}"


def _schema(root: type[BaseModel]) -> str:
    """Document a model and every model that its fields mention, in order of appearance."""
    text, waiting, seen = "", [root], {root}
    while waiting:
        model = waiting.pop(0)
        text += f"\n### {model.__name__}\n\n{prose(inspect.getdoc(model) or '')}\n"
        rows = []
        for name, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True)
            bounds = {
                key: getattr(item, key)
                for item in field.metadata
                for key in ("ge", "gt", "le", "lt")
                if getattr(item, key, None) is not None
            }
            shown = "required" if default is PydanticUndefined else code(_default(default))
            rows.append(
                [
                    code(name),
                    code(spell(field.annotation)),
                    shown,
                    spell_bounds(bounds),
                    field.description or "",
                ]
            )
            for mentioned in _models_in(field.annotation):
                if mentioned not in seen:
                    seen.add(mentioned)
                    waiting.append(mentioned)
        text += table(["key", "type", "default", "bounds", "meaning"], rows)
    return text


def _default(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, list):
        return [_default(item) for item in value]
    return value


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


# --- errors, systems ---------------------------------------------------------------------------


def errors_page() -> str:
    """Every error class with its exit code."""
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.TaskloomError)
    ]
    rows = [
        [code(each.exit_code), code(each.__name__), _first_line(each)]
        for each in sorted(classes, key=lambda each: each.exit_code)
    ]
    rows += [
        [code(cli.UNEXPECTED), "any other error", "A fault of Taskloom; --debug shows where."],
        [code(cli.INTERRUPTED), "Ctrl-C", "Interrupted; what was finished is kept."],
        [code(cli.PIPE_CLOSED), "closed pipe", "Whoever read the output has left; nothing is said."],
    ]
    text = f"{NOTE}# Errors and exit codes\n\nThe library raises; the command line prints the "
    text += "message as one line on the standard error, `error: ...`, and exits with the code. "
    text += "Wrong words on the command line exit with 2. "
    text += "`taskloom --debug VERB ...` prints the whole traceback instead.\n\n"
    return text + table(["code", "class", "what went wrong"], rows)


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


def systems_page() -> str:
    """Every system of the list with what is there of it."""
    found = standings(registry.entries(), ROOT)
    counts = {status: sum(s.status == status for s in found) for status in _STATUSES}
    text = f"{NOTE}# What works\n\n{len(found)} published systems are on the list: "
    text += ", ".join(f"**{number} {status}**" for status, number in counts.items()) + ".\n\n"
    text += "A system *works* when a registered function claims it in full and its test file has "
    text += "tests; it is there *partly* when something of it is missing, which is named.\n"
    for status in ("works", "partly"):
        text += f"\n## {status.capitalize()}\n\n"
        rows = [_claimed(standing) for standing in found if standing.status == status]
        text += table(["system", "family", "here", "proof", "missing"], rows) if rows else "None.\n"
    text += "\n## The whole list\n\n"
    return text + table(
        ["system", "family", "kind", "status", "done when"],
        [[s.system.name, s.system.family, s.system.kind, s.status, s.system.done_when] for s in found],
    )


_STATUSES = ("works", "partly", "not yet")


def _claimed(standing: Standing) -> list[str]:
    here = [_page_of(entry) for entry in standing.entries]
    proof = ", ".join(map(code, standing.proof))
    return [standing.system.name, standing.system.family, ", ".join(here), proof, standing.missing]


def _page_of(entry: str) -> str:
    family, _, name = entry.partition("/")
    page = f"methods/{name}.md" if family == "merge" else f"reference/methods.md#{family}-{name}"
    return f"[`{entry}`]({page})"


#: path below docs/ -> what is written there
PAGES: dict[str, Callable[[], str]] = {
    "reference/methods.md": methods_page,
    "reference/cli.md": cli_page,
    "reference/plan.md": plan_page,
    "reference/tasks.md": tasks_page,
    "reference/errors.md": errors_page,
    "systems.md": systems_page,
    "claims.md": lambda: claims_page(ledger()),
    "learned.md": lambda: learned_page(Ledger(read_results(RESULTS.with_name("learned.json")))),
    "leaderboard.md": lambda: leaderboard_page(read_all(ROOT / "benchmarks" / "results")),
    "choose.md": choose_page,
    **METHOD_PAGES,
}
