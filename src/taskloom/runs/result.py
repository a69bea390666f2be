"""What a run found, as plain data: everything the report shows, and nothing computed twice."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

ModelKind = Literal["base", "expert", "merge"]


class Record(BaseModel):
    """A frozen piece of a result; unknown keys are refused so that old files are noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskRecord(Record):
    """A task as it was used: its sizes after deduplication and subsampling."""

    name: str
    title: str
    metric: str
    labels: list[str]
    n_train: int
    n_validation: int
    n_test: int
    removed_duplicates: int
    source: str
    data_license: str
    digest: str
    role: Literal["pool", "target"]


class ModelRecord(Record):
    """One candidate: the base, a single expert, or a merge."""

    name: str  # unique within the run, e.g. "base", "expert:trec6", "ties"
    kind: ModelKind
    title: str  # what a reader sees, e.g. "TIES"
    method: str | None = None  # registered name of the merging method
    task: str | None = None  # the task an expert was trained on
    options: dict[str, Any] = {}
    composition: str = ""  # e.g. "keep(0.2, model) -> elect -> mean(kept) -> scale(1.0)"
    reads: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    digest: str = ""


class ScoreRecord(Record):
    """A measured value with its uncertainty."""

    model: str  # ModelRecord.name
    task: str  # TaskRecord.name
    split: Literal["validation", "test", "cross-validation"]
    metric: str
    value: float  # for accuracy in [0, 1]
    low: float  # 95 % interval
    high: float
    interval: str  # "wilson" or "bootstrap"
    n: int
    seed: int


class SweepPoint(Record):
    """One setting that was tried on validation."""

    method: str  # ModelRecord.name it belongs to
    option: str  # e.g. "scale"
    setting: float
    value: float  # mean over pool tasks of the validation score
    low: float
    high: float
    n: int  # validation examples behind the mean
    chosen: bool


class MixtureRecord(Record):
    """One weighting of the experts that was tried on validation."""

    weights: list[float]  # by FrontRecord.experts, adding up to 1
    rewards: list[float]  # by FrontRecord.rewards, each with its 95 % interval and its n
    low: list[float]
    high: list[float]
    n: list[int]
    on_front: bool  # no other one is as good everywhere and better somewhere
    chosen: bool


class FrontRecord(Record):
    """All mixtures of a rewarded soup."""

    method: str  # ModelRecord.name it belongs to
    experts: list[str]
    rewards: list[str]  # tasks
    mixtures: list[MixtureRecord]


class RankEntry(Record):
    """One expert's place in a ranking for a target."""

    expert: str  # ModelRecord.name
    score: float
    rank: int  # 1 is best


class RankingRecord(Record):
    """A transferability score's ranking of the experts for one target, held against the truth."""

    target: str
    score: str  # registered name
    entries: list[RankEntry]
    seconds: float
    # truth = test score of a head fitted on the same few labels over each expert's features
    weighted_tau: float | None  # weighted Kendall tau between score and truth; None if undefined
    spearman: float | None
    regret_at_1: float  # best expert's test score minus that of the expert ranked first


class MarginRecord(Record):
    """By how much the best merge wins over another model, or loses where it is negative."""

    composition: str  # ModelRecord.name
    rival: str  # ModelRecord.name
    task: str  # TaskRecord.name; empty for the mean over tasks
    gain: float  # composition minus rival on the same held-out examples
    low: float  # 95 % paired interval
    high: float
    n: int


class GuardRecord(Record):
    """The verdict on what may be handed over, decided without the test split."""

    scope: str  # "pool" (all pool tasks) or a target's name
    winner: str  # ModelRecord.name
    best_merge: str | None
    best_single: str  # best expert, base or rival by the same yardstick
    best_merge_value: float | None
    best_single_value: float
    base_value: float
    yardstick: str  # e.g. "mean validation accuracy over 8 tasks"
    refused: list[str]  # merges that lose to the best single expert
    reason: str  # one sentence
    margins: list[MarginRecord] = []  # of the best merge over base, every expert and plain averaging


class TargetRecord(Record):
    """What a user of one target wants to know."""

    target: str
    n_labels: int
    reuse: str  # ModelRecord.name that the guard chose
    value: float  # test score of the chosen model with a head on the few labels
    base_value: float
    gain: float  # value - base_value, same test examples
    gain_low: float  # 95 % interval of the paired difference
    gain_high: float
    n: int
    best_in_hindsight: str
    best_in_hindsight_value: float
    handover: str  # directory, relative to the run folder
    sentence: str  # "For quotes reuse ...: it gains 3.1 points over the base with 64 labels ..."


class Matrix(Record):
    """A labelled matrix for a heatmap; None where a cell was not measured."""

    title: str
    rows: list[str]
    columns: list[str]
    values: list[list[float | None]]
    row_label: str
    column_label: str


class HandoverRecord(Record):
    """A directory that plain transformers loads."""

    path: str  # relative to the run folder
    model: str  # ModelRecord.name
    heads: list[str]  # task names with a head inside
    digest: str
    snippet: str  # ready-to-paste Python that loads it and reproduces one score
    reproduces: str  # e.g. "trec6 test accuracy 0.8720 (n = 250)"


class LockRecord(Record):
    """What is needed to tell whether a second run is the same run."""

    plan_digest: str
    inputs: dict[str, str]  # what -> sha256
    versions: dict[str, str]  # package -> version
    platform: str
    seed: int
    seconds: dict[str, float]  # stage -> wall seconds of this run
    peak_memory_bytes: int
    skipped: list[str]  # stages or items taken from cache


class RunResult(Record):
    """Everything a run found."""

    schema_version: Literal[1] = 1
    name: str
    title: str
    created: str  # ISO 8601, UTC
    headline: str  # the first sentence of the report
    base: str  # how the base is called, e.g. "all-MiniLM-L6-v2 (22.7 M parameters)"
    plan_yaml: str
    tasks: list[TaskRecord]
    models: list[ModelRecord]
    scores: list[ScoreRecord]
    sweeps: list[SweepPoint]
    rankings: list[RankingRecord]
    guards: list[GuardRecord]
    targets: list[TargetRecord]
    cosines: Matrix | None  # task-vector cosine between experts
    transfer: Matrix | None  # source expert x task: test score minus base
    handovers: list[HandoverRecord]
    lock: LockRecord
    warnings: list[str] = []
    fronts: list[FrontRecord] = []
