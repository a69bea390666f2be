"""The plan: one YAML file that says what to reuse for what, checked before anything is read.

``taskloom run`` carries it out; one with the key ``fit``, ``taskloom fit``.

Every name in it (task, method, score, training method) is looked up in a registry; an unknown key is
an error that offers the nearest right one. Paths in it are relative to the working directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from taskloom import registry
from taskloom.choose.rank import DEFAULT_SCORES, ScoreSpec
from taskloom.choose.supplies import arguments
from taskloom.errors import PlanError
from taskloom.evaluation.strict import Strict, parse
from taskloom.evaluation.task import Subset, check_overlaps, get_task
from taskloom.learn.options import TrainOptions
from taskloom.merging import compose
from taskloom.merging.executor import execute, plan_merge
from taskloom.merging.program import check_chain
from taskloom.merging.recipe import Recipe
from taskloom.runs.fit_names import named_fit
from taskloom.runs.mixtures import check_rewards
from taskloom.store.cache import canonical_digest
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.packages import PackageRef
from taskloom.store.pool import Expert, Pool


class Limits(Strict):
    """How much of every task is used; classes keep their shares."""

    train: int = Field(1000, ge=2)
    validation: int = Field(200, ge=2)
    test: int = Field(500, ge=2)


class PackagedModel(Strict):
    """A model directory inside a hash-pinned package."""

    package: PackageRef
    directory: str = Field(description="Folder inside the package that holds config and weights.")


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class BuiltModel(Strict):
    """A small encoder made from nothing: initialised from the seed, pretrained on one task or several.

    Several tasks are pretrained on as one, whose classes are all classes of all tasks.
    """

    build: dict[str, Any] = Field(description="Architecture, see the reference of models.build.")
    pretrain: Annotated[list[str], BeforeValidator(_one_or_many)] = Field(
        min_length=1, description="Task it is pretrained on, or tasks, pooled."
    )
    subset: Subset | None = Field(None, description="Part of every such task's data, see tasks.")
    limits: Limits | None = Field(
        None, description="Most examples of every such task (test is not read); all if not given."
    )
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


class PoolItem(Strict):
    """One expert: trained on the task by the run, or given."""

    task: str = Field(description="Registered task or path of an annotation.")
    expert: str | None = Field(None, description="Directory or hub id of an expert that exists.")
    limits: Limits | None = Field(None, description="Instead of the plan's limits.")


class Target(Strict):
    """A task with few labels that no expert was trained on."""

    task: str
    labels: int = Field(64, ge=4, description="Labelled examples, in total, that may be used.")
    test: int | None = Field(None, ge=2, description="Most test examples; else the plan's limit.")


class FineTune(Strict):
    """Fine-tuning the base on a target's labels, which is held against all that can be reused."""

    targets: bool = Field(
        True, description="Whether it is tried: six trainings a target, five of them for folds."
    )
    steps: int | None = Field(
        None, ge=1, description="Of each; five passes, from 30 to 60, if not given."
    )


class PlannedFit(Strict):
    """What ``taskloom fit`` fits: one method or small module, and what it sees."""

    method: str = Field(description="Registered fitting method or small module.")
    options: dict[str, Any] = Field({})
    tasks: list[str] = Field(
        [],
        description="Tasks of the pool and targets that it is fitted on; the pool's if none is named.",
    )
    merged: str | None = Field(
        None, description="What a small module sits on; by default a merge made for it."
    )
    examples: int = Field(256, ge=1, description="Most examples of a task.")
    labels: int | None = Field(
        None,
        ge=1,
        description="Labelled examples of each of the pool's tasks, training and validation together; "
        "else the limits.",
    )
    batch_size: int = Field(16, ge=1)
    transductive: bool = Field(
        False, description="Whether inputs of the test splits are fitted on, without labels."
    )


class SelectScore(Strict):
    """One transferability score, with options."""

    score: str
    options: dict[str, Any] = Field({})

    @property
    def label(self) -> str:
        """Name within the run, e.g. ``h_score(regularised=True)``."""
        given = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.score}({given})" if given else self.score


def _default_score(spec: ScoreSpec) -> SelectScore:
    name, options = (spec, {}) if isinstance(spec, str) else spec
    return SelectScore(score=name, options=dict(options))


class Merge(Strict):
    """One merging method, or a list of steps, to try: fixed options, and one swept on validation."""

    method: str = Field(description="Registered name; for steps of your own write {steps: [...]}.")
    name: str = ""
    options: dict[str, Any] = Field({})
    sweep: dict[str, Annotated[list[FiniteFloat], Field(min_length=1)]] = Field(
        {}, max_length=1, description="One option and its settings; of a step, step.option."
    )
    reestimate_batchnorm: Annotated[list[str], BeforeValidator(_one_or_many)] = Field(
        [], description="Tasks of the pool on whose inputs batch norm is estimated anew."
    )
    rewards: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        {},
        description="rewarded_soup: tasks of the pool and their weights, by which one of all mixtures "
        "is chosen on validation.",
    )
    levels: int = Field(11, ge=2, description="rewards: settings from 0 to 1 along every edge.")

    @model_validator(mode="after")
    def _rewards_fit(self) -> Merge:
        if self.rewards and (self.method != "rewarded_soup" or "preference" in self.options):
            raise ValueError(
                f"{self.label}: rewards choose the preference of a rewarded_soup, and of nothing else"
            )
        if self.levels != type(self).model_fields["levels"].default and not self.rewards:
            raise ValueError(f"{self.label}: levels say how many mixtures are tried for rewards")
        return self

    @property
    def label(self) -> str:
        """Name within the run."""
        return self.name or self.method

    def recipe(self, seed: int, **setting: float) -> Recipe:
        """Compose the method at a swept setting; ``seed`` serves unless the options have their own."""
        if self.method == compose.NAME:
            options = dict(self.options)
            for where, value in setting.items():
                options["steps"] = compose.set_option(options["steps"], where, value)
            return Recipe.of(compose.NAME, seed=seed, **options)
        options = {**self.options, **setting}
        registry.get("merge", self.method).validate(options)
        return Recipe.of(self.method, **{"seed": seed, **options})


#: keys of a merge that are no options of its method
_BESIDE = ("sweep", "name", "reestimate_batchnorm", "rewards", "levels")


def _short_merge(value: Any) -> Any:
    """Accept ``ties``, ``{ties: {density: 0.2, sweep: {scale: [...]}}}`` and ``{steps: [...]}``."""
    if isinstance(value, str):
        return {"method": value}
    if isinstance(value, Mapping) and compose.NAME in value and "method" not in value:
        rest = dict(value)
        options = {key: rest.pop(key) for key in (compose.NAME, "space") if key in rest}
        return {"method": compose.NAME, "options": options, **rest}
    if isinstance(value, Mapping) and len(value) == 1 and "method" not in value:
        ((method, inside),) = value.items()
        rest = _options_of(method, inside)
        known = {key: rest.pop(key) for key in _BESIDE if key in rest}
        return {"method": method, "options": rest, **known}
    return value


def _short_score(value: Any) -> Any:
    """Accept ``logme`` and ``{h_score: {regularised: true}}``."""
    if isinstance(value, str):
        return {"score": value}
    if isinstance(value, Mapping) and len(value) == 1 and "score" not in value:
        ((score, inside),) = value.items()
        return {"score": score, "options": _options_of(score, inside)}
    return value


def _options_of(name: Any, inside: Any) -> dict[str, Any]:
    if inside is not None and not isinstance(inside, Mapping):
        found = type(inside).__name__
        raise ValueError(f"{name}: expected options and their values, found {found} {inside!r}")
    return dict(inside or {})


def _short_tuning(value: Any) -> Any:
    return {"targets": value} if isinstance(value, bool) else value


def _short_fit(value: Any) -> Any:
    """Accept ``adamerging`` and ``{adamerging: {steps: 100}}``."""
    if isinstance(value, str):
        return {"method": value}
    if isinstance(value, Mapping) and "method" not in value:
        if len(value) != 1:
            found = ", ".join(map(str, value)) or "nothing"
            raise ValueError(
                f"expected one fitting method and its options, found {found}; with more than options "
                "write {method: ..., options: {...}, ...}"
            )
        ((method, inside),) = value.items()
        return {"method": method, "options": _options_of(method, inside)}
    return value


def short_task(value: Any) -> Any:
    """Return what a task alone stands for; anything else as it is."""
    return {"task": value} if isinstance(value, str) else value


MergeItem = Annotated[Merge, BeforeValidator(_short_merge)]
ScoreItem = Annotated[SelectScore, BeforeValidator(_short_score)]


class Evaluation(Strict):
    """How models are run when they are scored."""

    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="For heads, few labels and every test score."
    )
    validation_precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="For sweeps and the guard on the pool's tasks, which only choose."
    )
    batch_size: int = Field(64, ge=1)
    max_length: int = Field(64, ge=4, description="Tokens a text is cut to.")


class Plan(Strict):
    """Everything a run does."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run folder.")
    title: str = ""
    seed: int = Field(0, ge=0)
    base: Base
    limits: Limits = Limits()
    pool: list[Annotated[PoolItem, BeforeValidator(short_task)]] = Field(min_length=1)
    targets: list[Annotated[Target, BeforeValidator(short_task)]] = Field([])
    train: dict[str, Any] = Field({}, description="Options of taskloom train.")
    select: list[ScoreItem] = Field(
        [_default_score(spec) for spec in DEFAULT_SCORES],
        min_length=1,
        description="Transferability scores, by name or as {name: {option: value}}.",
    )
    merge: list[MergeItem] = Field([Merge(method="average")], description="Methods to try.")
    fine_tune: Annotated[FineTune, BeforeValidator(_short_tuning)] = Field(
        FineTune(), description="The rival of what targets reuse; false leaves it out."
    )
    fit: Annotated[PlannedFit | None, BeforeValidator(_short_fit)] = Field(
        None,
        description="What taskloom fit fits, by name or as {name: {option: value}}; a plan that says it "
        "takes no select and no merge.",
    )
    evaluation: Evaluation = Evaluation()
    guard: Literal["strict", "warn"] = Field(
        "strict",
        description="strict: a merge that loses to the best single expert on validation is not "
        "handed over; warn: it is, with a warning.",
    )

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's content."""
        return canonical_digest(
            self.model_dump(mode="json", exclude={"fit"} if self.fit is None else None)
        )


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, of which the last would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def load_plan(source: str | Path | Mapping[str, Any]) -> tuple[Plan, str]:
    """Read a plan of ``taskloom run`` from a YAML file, or take it from a mapping.

    Returns it with its YAML text.

    Raises
    ------
    PlanError
        The file is missing, not UTF-8 or not YAML; a key, name or value is wrong; a plan with ``fit``.
    """
    plan, text, where = _read(source)
    if plan.fit is not None:
        raise PlanError(
            f"{where} says what is fitted (fit), which taskloom run does not carry out",
            hint="Give the plan to 'taskloom fit', or leave fit out",
        )
    return plan, text


#: keys of a plan that say what only ``taskloom run`` does
_RUNS_ONLY = ("select", "merge")


def load_fit_plan(source: str | Path | Mapping[str, Any]) -> Plan:
    """Read a plan of ``taskloom fit``, likewise.

    Raises
    ------
    PlanError
        As `load_plan`; a plan without ``fit``, with what only ``taskloom run`` does, or with a target
        that is not fitted on.
    """
    plan, _, where = _read(source)
    if plan.fit is None:
        raise PlanError(
            f"{where} does not say what is fitted",
            hint="Write fit: {adamerging: {}}, or give the plan to 'taskloom run'",
        )
    for key in _RUNS_ONLY:
        if key in plan.model_fields_set:
            raise PlanError(
                f"{where}: {key!r} is for 'taskloom run', and 'taskloom fit' does not use it",
                hint="Leave it out",
            )
    fitted = {get_task(task).name for task in plan.fit.tasks}
    for target in plan.targets:
        if get_task(target.task).name not in fitted:
            raise PlanError(
                f"{where}: the target {target.task!r} is not fitted on",
                hint="Name it under tasks of fit, or leave it out",
            )
    return plan


def _read(source: str | Path | Mapping[str, Any]) -> tuple[Plan, str, str]:
    """Return a plan, its YAML text, and what messages call it."""
    if isinstance(source, Mapping):
        where = "the plan"
        plan = check_plan(source, where)
        given = plan.model_dump(mode="json", exclude_unset=True)
        return plan, yaml.safe_dump(given, sort_keys=False, allow_unicode=True), where
    path = Path(source)
    where = f"plan {str(path)!r}"
    content, text = read_yaml(path, where)
    return check_plan(content, where), text, where


def read_yaml(path: Path, where: str) -> tuple[Any, str]:
    """Read a YAML file in which no key may be given twice; return its content and its text.

    Parameters
    ----------
    where
        What it is, for messages.

    Raises
    ------
    PlanError
        The file is missing, not UTF-8 or not YAML.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise PlanError(f"there is no {where}", hint="Give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        message = f"{where} is not UTF-8 text (byte {error.start})"
        raise PlanError(message, hint="Save it as UTF-8") from None
    except OSError as error:
        raise PlanError(f"{where} cannot be read: {error.strerror}", hint="Give a YAML file") from None
    return _parsed(text, where), text


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "it cannot be parsed")
        raise PlanError(f"{where} is not valid YAML{place}: {problem}") from None


def check_plan(content: Mapping[str, Any], where: str) -> Plan:
    """Validate keys, values and every registered name of a plan.

    What a later stage would refuse is refused here if it can be known without data: whatever a plan
    gets wrong should cost a second, not the minutes until that stage is reached.
    """
    plan = parse(Plan, content, where=where)
    _check_tasks(plan, where)
    _check_training(plan)
    _check_scores(plan, where)
    _check_merges(plan, where)
    _check_fit(plan, where)
    return plan


def _check_tasks(plan: Plan, where: str) -> None:
    pool = [get_task(item.task) for item in plan.pool]
    targets = [get_task(target.task) for target in plan.targets]
    names = [task.name for task in pool]
    _refuse_twice(names, f"{where}: task {{}} is in the pool twice", "List it once")
    for target in targets:
        if target.name in names:
            message = f"{where}: target {target.name!r} is also a task of the pool"
            raise PlanError(message, hint="A target is a task no expert was trained on")
        if target.name == "pool":
            message = f"{where}: a target cannot be called 'pool', the pool's own folder"
            raise PlanError(message, hint="Rename it in its annotation")
    _refuse_twice([t.name for t in targets], f"{where}: target {{}} is there twice", "List it once")
    check_overlaps([*pool, *targets])


def _check_training(plan: Plan) -> None:
    built = plan.base.built
    if built is not None:
        for task in built.pretrain:
            get_task(task)
        TrainOptions.parse(built.options)
    registry.get("train", TrainOptions.parse(plan.train).method)


def _check_scores(plan: Plan, where: str) -> None:
    modality = get_task(plan.pool[0].task).modality
    for item in plan.select:
        entry = registry.get("score", item.score)
        entry.validate(item.options)
        if "target_tokens" in arguments(entry) and modality != "text":
            raise PlanError(
                f"{where}: the score {item.label} counts words, and the tasks are of {modality}",
                hint="Leave it out",
            )
    labels = [item.label for item in plan.select]
    _refuse_twice(labels, f"{where}: the score {{}} is there twice", "List it once")


def _tasks(items: Sequence[PoolItem] | Sequence[Target]) -> list[str]:
    return [item.task for item in items]


def _check_fit(plan: Plan, where: str) -> None:
    if plan.fit is None:
        return
    named_fit(plan.fit.method, merged=plan.fit.merged is not None).validate(plan.fit.options)
    known = [get_task(task).name for task in (*_tasks(plan.pool), *_tasks(plan.targets))]
    names = [get_task(task).name for task in plan.fit.tasks]
    _refuse_twice(names, f"{where}: task {{}} is fitted on twice", "Name it once")
    for name in names:
        if name not in known:
            raise PlanError(
                f"{where}: the task {name!r} of fit is neither in the pool nor a target",
                hint=f"Take {' or '.join(known)}",
            )


def _check_merges(plan: Plan, where: str) -> None:
    """Compose every merge at every setting, and hold it against a pool of that many experts."""
    weights = MemoryCheckpoint({"w": torch.zeros(1)})
    names = [get_task(item.task).name for item in plan.pool]
    pool = Pool(weights, tuple(Expert(name, weights) for name in names))
    for item in plan.merge:
        for option in item.sweep:
            if option in item.options:
                message = f"{where}: {item.label}: {option!r} is both set and swept"
                raise PlanError(message, hint="Keep one of them")
        for task in item.reestimate_batchnorm:
            if get_task(task).name not in names:
                raise PlanError(
                    f"{where}: {item.label}: batch norm is estimated on {task!r}, which is not in the "
                    "pool",
                    hint=f"Take {' or '.join(names)}",
                )
        check_rewards(item, names)
        swept = [{option: each} for option, settings in item.sweep.items() for each in settings]
        for setting in swept or [{}]:
            chain = item.recipe(plan.seed, **setting).chain
            if chain.needs:  # what it needs to know is collected by the run
                check_chain(chain, pool.names, has_base=True)
                continue
            planned = plan_merge(pool, chain)
            if item.method == compose.NAME:  # one row must be left, which a list of steps may not see to
                dict(execute(planned))
        if item.label == "base" or item.label.startswith("expert:"):
            message = f"{where}: a merge cannot be called {item.label!r}"
            raise PlanError(message, hint="Give it another name")
    labels = [item.label for item in plan.merge]
    _refuse_twice(labels, f"{where}: two merges are called {{}}", "Give one a name")


def _refuse_twice(names: Sequence[str], message: str, hint: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise PlanError(message.format(repr(name)), hint=hint)
