"""The plan: one YAML file that says what to reuse for what, checked before anything is read.

Every name in it (task, method, score, training method) is looked up in a registry; an unknown key is
an error that offers the nearest right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from taskloom import registry
from taskloom.errors import PlanError
from taskloom.evaluation.strict import Strict, parse
from taskloom.evaluation.task import Subset, check_overlaps, get_task
from taskloom.learn.options import TrainOptions
from taskloom.store.cache import canonical_digest
from taskloom.store.packages import PackageRef


class PackagedModel(Strict):
    """A model directory inside a hash-pinned package."""

    package: PackageRef
    directory: str = Field(description="Folder inside the package that holds config and weights.")


class BuiltModel(Strict):
    """A small encoder made from nothing: initialised from the seed, pretrained on one task."""

    build: dict[str, Any] = Field(description="Architecture, see the reference of models.build.")
    pretrain: str = Field(description="Task it is pretrained on.")
    subset: Subset | None = Field(None, description="Part of that task's data, see tasks.")
    options: dict[str, Any] = Field({}, description="Training options of the pretraining.")


class Base(Strict):
    """Where the base model comes from: exactly one of path, hub, packaged, built."""

    title: str = Field("", description="What the report calls it.")
    path: Path | None = None
    hub: str | None = Field(None, description="Hub id, with @revision if wanted.")
    packaged: PackagedModel | None = None
    built: BuiltModel | None = None

    @model_validator(mode="after")
    def _one(self) -> Base:
        given = [n for n in ("path", "hub", "packaged", "built") if getattr(self, n) is not None]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(f"base needs exactly one of path, hub, packaged, built, but has {found}")
        return self


class Limits(Strict):
    """How much of every task is used; classes keep their shares."""

    train: int = Field(1000, ge=2)
    validation: int = Field(200, ge=2)
    test: int = Field(500, ge=2)


class PoolItem(Strict):
    """One expert: trained on the task by the run, or given."""

    task: str = Field(description="Registered task or path of an annotation.")
    expert: str | None = Field(None, description="Directory or hub id of an expert that exists.")
    limits: Limits | None = Field(None, description="Instead of the plan's limits.")


class Target(Strict):
    """A task with few labels that no expert was trained on."""

    task: str
    labels: int = Field(64, ge=4, description="Labelled examples, in total, that may be used.")


class Merge(Strict):
    """One merging method to try, with fixed options and options swept on validation."""

    method: str
    name: str = ""
    options: dict[str, Any] = Field({})
    sweep: dict[str, list[float]] = Field({}, max_length=1, description="One option and its settings.")

    @property
    def label(self) -> str:
        """Name within the run."""
        return self.name or self.method


def _short_merge(value: Any) -> Any:
    """Accept ``ties`` and ``{ties: {density: 0.2, sweep: {scale: [...]}}}``."""
    if isinstance(value, str):
        return {"method": value}
    if isinstance(value, Mapping) and len(value) == 1 and "method" not in value:
        ((method, inside),) = value.items()
        rest = dict(inside or {})
        known = {key: rest.pop(key) for key in ("sweep", "name") if key in rest}
        return {"method": method, "options": rest, **known}
    return value


def _short_task(value: Any) -> Any:
    return {"task": value} if isinstance(value, str) else value


MergeItem = Annotated[Merge, BeforeValidator(_short_merge)]


class Evaluation(Strict):
    """How models are run when they are scored."""

    precision: Literal["fp32", "bf16"] = "fp32"
    sweep_precision: Literal["fp32", "bf16"] = "bf16"
    batch_size: int = Field(64, ge=1)
    max_length: int = Field(64, ge=4, description="Tokens a text is cut to.")


class Plan(Strict):
    """Everything a run does."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run folder.")
    title: str = ""
    seed: int = 0
    base: Base
    limits: Limits = Limits()
    pool: list[Annotated[PoolItem, BeforeValidator(_short_task)]] = Field(min_length=1)
    targets: list[Annotated[Target, BeforeValidator(_short_task)]] = Field([])
    train: dict[str, Any] = Field({}, description="Options of taskloom train.")
    select: list[str] = Field(
        ["h_score", "logme", "linear_probe", "knn"], description="Transferability scores."
    )
    merge: list[MergeItem] = Field([Merge(method="average")], description="Methods to try.")
    evaluation: Evaluation = Evaluation()
    guard: Literal["strict", "warn"] = Field(
        "strict",
        description="strict: a merge that loses to the best single expert on validation is not "
        "handed over; warn: it is, with a warning.",
    )

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's content."""
        return canonical_digest(self.model_dump(mode="json"))


def load_plan(source: str | Path | Mapping[str, Any]) -> tuple[Plan, str]:
    """Read a plan from a YAML file, or take it from a mapping; return it with its YAML text.

    Raises
    ------
    PlanError
        The file is missing, not UTF-8 or not YAML; a key, name or value is wrong.
    """
    if isinstance(source, Mapping):
        text = yaml.safe_dump(dict(source), sort_keys=False)
        return check_plan(source, "the plan"), text
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PlanError(f"there is no plan {str(path)!r}", hint="Give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        message = f"plan {str(path)!r} is not UTF-8 text (byte {error.start})"
        raise PlanError(message, hint="Save it as UTF-8") from None
    except OSError as error:
        raise PlanError(f"plan {str(path)!r} cannot be read: {error.strerror}") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise PlanError(f"plan {str(path)!r} is not valid YAML{place}: {problem}") from None
    return check_plan(content, f"plan {str(path)!r}"), text


def check_plan(content: Mapping[str, Any], where: str) -> Plan:
    """Validate keys, values and every registered name of a plan."""
    plan = parse(Plan, content, where=where)
    _check_names(plan, where)
    return plan


def _check_names(plan: Plan, where: str) -> None:
    names = [*(item.task for item in plan.pool), *(target.task for target in plan.targets)]
    check_overlaps([get_task(name) for name in names])
    TrainOptions.parse(plan.train)
    for score in plan.select:
        registry.get("score", score)
    labels = [item.label for item in plan.merge]
    for item in plan.merge:
        entry = registry.get("merge", item.method)
        entry.validate(item.options)
        for option, settings in item.sweep.items():
            for setting in settings:
                entry.validate({option: setting})
        if labels.count(item.label) > 1:
            raise PlanError(f"{where}: two merges are called {item.label!r}", hint="Give one a name")
    tasks = [item.task for item in plan.pool]
    for task in tasks:
        if tasks.count(task) > 1:
            raise PlanError(f"{where}: task {task!r} is in the pool twice", hint="List it once")
    for target in plan.targets:
        if target.task in tasks:
            message = f"{where}: target {target.task!r} is also a task of the pool"
            raise PlanError(message, hint="A target is a task no expert was trained on")
