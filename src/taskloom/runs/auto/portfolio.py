"""What is tried, in order, for what there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from taskloom import registry
from taskloom.errors import PlanError, UnknownName
from taskloom.merging.recipe import Recipe
from taskloom.runs.auto.making import (
    TUNING_BATCH,
    Make,
    as_it_is,
    by_fitting,
    by_merging,
    by_tuning,
    tuning_steps,
)
from taskloom.runs.candidates import singles
from taskloom.runs.claims.suitable import Experts, Have, data_needed, fits, keeps_parts
from taskloom.runs.judging import Kind
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.pool import Pool

#: experts that are tried alone and that small merges are made of
TOP = 3
BASE, AVERAGE, TUNED, TUNED_BEST = "base", "average", "fine-tune", "fine-tune of best expert"
#: gradient passes are this much dearer than running a model
BACKWARD = 3

Options = Mapping[str, Any]
#: merges without data: method and options, best measured first on experts of the kind (the order of
#: docs/choose.md when this was written), each family of methods by its best
MERGES: dict[Literal["full", "lora"], tuple[tuple[str, Options], ...]] = {
    "full": (
        ("tsv_merge", {}),
        ("iso_c", {}),
        ("ties", {}),
        ("task_arithmetic", {"scale": 0.3}),
        ("task_arithmetic", {"scale": 0.15}),
        ("task_arithmetic", {"scale": 0.6}),
    ),
    "lora": (
        ("metagpt", {}),
        ("ties", {}),
        ("iso_c", {}),
        ("task_arithmetic", {"scale": 0.3}),
        ("task_arithmetic", {"scale": 0.15}),
        ("task_arithmetic", {"scale": 0.6}),
    ),
}
#: merges of a part per task, for the expert that is ranked first
PARTS: tuple[str, ...] = ("tall_masks", "emr")


@dataclass(frozen=True)
class FitSpec:
    """A fit that is tried: its options, which of them counts steps, and what a step runs."""

    method: str
    options: Options
    counted: str
    per_step: float  # examples run forward, or as dear as that; 0: all that are seen


#: fits in the order in which they are tried
FITS: tuple[FitSpec, ...] = (
    FitSpec(
        "atlas",
        {"setting": "few_shot", "leave_out_own": False, "rate": 0.01, "steps": 60},
        "steps",
        16 * BACKWARD,
    ),
    FitSpec(
        "adamerging",
        {"shape": "free", "rate": 0.01, "steps": 60, "passes": 1},
        "steps",
        16 * BACKWARD,
    ),
    FitSpec("greedy_soup", {}, "evaluations", 0),
    FitSpec("lorahub", {"evaluations": 40}, "evaluations", 0),
)
#: what says how much a fit does, where that is neither steps nor evaluations: the points of a grid
_COUNTED = {"scale_search": "levels"}
#: fits that hold a model against the expert of the same task, which none in the pool is of the target
_OWN = ("divmerge",)
_NEEDED: dict[str, Have] = {"labels": "labels", "unlabeled": "unlabeled"}
_ORDER: tuple[Have, ...] = ("nothing", "unlabeled", "labels")


@dataclass(frozen=True)
class Member:
    """Something that is tried.

    Attributes
    ----------
    name
        Unique in a portfolio.
    kind
        As the guard knows it.
    title
        For a reader.
    method
        The registered name it goes by; empty for single models.
    make
        Makes it.
    learns
        Whether what is made depends on what may be seen.
    work
        (share, examples seen) -> examples run to make it, or as dear as that.
    """

    name: str
    kind: Kind
    title: str
    method: str
    make: Make = field(repr=False)
    learns: bool = False
    work: Callable[[float, int], float] = field(default=lambda share, seen: 0.0, repr=False)


@dataclass(frozen=True)
class Wishes:
    """What a portfolio is made for.

    Attributes
    ----------
    have
        Data of the target, beside its inputs.
    parts
        Whether a part per task may be kept.
    methods
        Registered merging and fitting methods, ``fine-tune`` among them: then only these are tried
        beside base, experts and average. None: the usual ones.
    seed
        Of methods that draw.
    """

    have: Have
    parts: bool = False
    methods: Sequence[str] | None = None
    seed: int = 0

    def wants(self, name: str) -> bool:
        """Tell whether a method is tried."""
        return self.methods is None or name in self.methods


def kind_of(pool: Pool) -> Literal["full", "lora"]:
    """Tell whether the experts are all adapters."""
    low = all(isinstance(expert.checkpoint, AdapterCheckpoint) for expert in pool.experts)
    return "lora" if low else "full"


def check_methods(methods: Sequence[str] | None) -> None:
    """Refuse names that are neither merging nor fitting methods.

    Raises
    ------
    UnknownName
        With the nearest that is one.
    """
    known = [entry.name for family in ("merge", "fit") for entry in registry.entries(family)]
    for name in methods or ():
        if name not in (*known, TUNED):
            raise UnknownName("merging or fitting method", name, [*known, TUNED])


def check_names(pool: Pool) -> None:
    """Refuse experts whose names mean something else here.

    Raises
    ------
    PlanError
        One is called base, average or fine-tune.
    """
    for name in pool.names:
        if name in (BASE, AVERAGE, TUNED, TUNED_BEST):
            raise PlanError(
                f"an expert is called {name!r}, which means another model here",
                hint="Give it another name (NAME=PATH)",
            )


def portfolio(pool: Pool, ranked: Sequence[str], wishes: Wishes) -> list[Member]:
    """Return what is tried, in order.

    Base, the experts that are ranked first, the average, fine-tunes, merges in their measured order,
    fits; with more experts than `TOP` also merges of the first few. Of these what the data allows.

    Parameters
    ----------
    ranked
        Names of experts, the most promising first.

    Raises
    ------
    PlanError
        A method that was named cannot be tried with what there is.
    """
    top = list(ranked[:TOP])
    few = Pool(pool.base, tuple(pool.expert(name) for name in top))
    many = len(pool) > len(few)
    base, *_ = singles(pool)
    found = [Member(BASE, "base", "Base", "", as_it_is(base))]
    found += [_expert(pool, name) for name in top]
    if len(pool) > 1:
        found.append(_average(AVERAGE, "merge", "Average of all experts", pool, wishes))
    if len(few) > 1 and many and wishes.wants(AVERAGE):
        title = f"Average of {', '.join(top)}"
        found.append(_average("average, top", "composition", title, few, wishes))
    found += _tunings(pool, top, wishes)
    found += _merges(pool, "", wishes)
    found += _fittings(pool, few if many else pool, wishes)
    if many and len(few) > 1:
        found += _merges(few, ", top", wishes)
    if wishes.parts and len(pool) > 1 and top:
        found += _parts(pool, top[0], wishes)
    _check_wishes(found, pool, wishes)
    return found


def rivals(pool: Pool, ranked: Sequence[str], members: Sequence[Member], wishes: Wishes) -> list[Member]:
    """Return single models that are no members, and that the check holds a composition against.

    The other experts, as they rank, those that were not looked at last; with labels the base's
    fine-tune.

    Parameters
    ----------
    members
        The portfolio.
    """
    known = {member.name for member in members}
    names = dict.fromkeys([*ranked, *pool.names])
    found = [_expert(pool, name) for name in names if name not in known]
    if wishes.have == "labels" and TUNED not in known:
        found.append(_tuning(pool, TUNED, "fine-tune", None))
    return found


def _check_wishes(found: Sequence[Member], pool: Pool, wishes: Wishes) -> None:
    """Refuse a method that was named and cannot be tried with what there is."""
    tried = {member.method for member in found}
    for name in wishes.methods or ():
        if name in _OWN:
            raise PlanError(
                f"{name} cannot be tried: it holds a model against the expert of its task, and "
                "the target has no expert",
                hint=f"Leave it out; 'taskloom fit {name}' is for the tasks of the experts",
            )
        if name not in tried:
            have = {"labels": "labels", "unlabeled": "inputs without labels", "nothing": "nothing"}
            raise PlanError(
                f"{name} cannot be tried on {len(pool)} experts ({kind_of(pool)}) with "
                f"{have[wishes.have]} of the target{'' if wishes.parts else ' and no parts per task'}",
                hint="Leave it out; 'taskloom methods' says what it needs",
            )


def _expert(pool: Pool, name: str) -> Member:
    (one,) = [each for each in singles(pool) if each.name == f"expert:{name}"]
    return Member(name, "expert", f"Expert {name}", "", as_it_is(replace(one, name=name)))


def _average(name: str, kind: Kind, title: str, pool: Pool, wishes: Wishes) -> Member:
    recipe = Recipe.of("average", seed=wishes.seed)
    return Member(name, kind, title, AVERAGE, by_merging(name, title, pool, recipe))


def _tunings(pool: Pool, top: Sequence[str], wishes: Wishes) -> list[Member]:
    if wishes.have != "labels" or not wishes.wants(TUNED):
        return []
    first = [_tuning(pool, TUNED_BEST, "composition", name) for name in top[:1]]
    return [_tuning(pool, TUNED, "fine-tune", None), *first]


def _tuning(pool: Pool, name: str, kind: Kind, start: str | None) -> Member:
    def work(share: float, seen: int) -> float:
        return tuning_steps(seen) * share * min(TUNING_BATCH, seen) * BACKWARD + seen

    title = f"{'Base' if start is None else f'Expert {start}'} fine-tuned on the target"
    make = by_tuning(name, title, None if start is None else pool.expert(start))
    return Member(name, kind, title, TUNED, make, learns=True, work=work)


def _fittings(pool: Pool, few: Pool, wishes: Wishes) -> list[Member]:
    """Return fits over the first few experts, searches among them over all."""
    found = []
    for spec in _specs(wishes):
        entry = registry.get("fit", spec.method)
        if len(pool) < 2 or spec.method in _OWN or not _allowed(entry, wishes.have, kind_of(pool)):
            continue
        over = pool if spec.per_step == 0 else few
        options = dict(spec.options)
        if spec.method == "adamerging":
            options["start"] = 1.0 / len(over)
        if spec.method == "greedy_soup":
            options["evaluations"] = 2 * len(over) - 1
        title = f"{_words(spec.method)} of {', '.join(over.names)}, fitted to the target"

        def work(share: float, seen: int, each: FitSpec = spec, given: Options = options) -> float:
            one = min(each.per_step, BACKWARD * seen) if each.per_step else seen
            return float(given.get(each.counted, 60)) * share * one

        name = f"fit {spec.method}"
        make = by_fitting(name, title, over, spec.method, options, spec.counted)
        found.append(Member(name, "composition", title, spec.method, make, learns=True, work=work))
    return found


def _specs(wishes: Wishes) -> list[FitSpec]:
    """Return the usual fits that are wanted, and those that were named besides, at their defaults."""
    usual = [spec for spec in FITS if wishes.wants(spec.method)]
    known = {entry.name for entry in registry.entries("fit")}
    others = [name for name in wishes.methods or () if name in known and name not in _named(usual)]
    return [*usual, *(_default(name) for name in others)]


def _named(specs: Sequence[FitSpec]) -> set[str]:
    return {spec.method for spec in specs}


def _default(name: str) -> FitSpec:
    fields = registry.get("fit", name).schema.model_fields
    counted = _COUNTED.get(name) or ("steps" if "steps" in fields else "evaluations")
    most = fields[counted].default if counted in fields else None
    return FitSpec(name, {counted: most or 20}, counted, 16 * BACKWARD if counted == "steps" else 0)


def _allowed(entry: registry.Entry, have: Have, experts: Experts) -> bool:
    if "adapters" in entry.needs and experts != "lora":
        return False
    needed = [_NEEDED[need] for need in entry.needs if need in _NEEDED]
    return all(_ORDER.index(need) <= _ORDER.index(have) for need in needed)


def _merges(pool: Pool, suffix: str, wishes: Wishes) -> list[Member]:
    """Return merges without data, in their measured order; others that were named at their end."""
    if len(pool) < 2:
        return []
    kind = kind_of(pool)
    listed = [(name, options) for name, options in MERGES[kind] if wishes.wants(name)]
    listed += [(name, {}) for name in _others(wishes, kind)]
    found = []
    for method, options in listed:
        entry = registry.get("merge", method)
        if not _mergeable(entry, kind, named=method in (wishes.methods or ())):
            continue
        recipe = Recipe.of(method, seed=wishes.seed, **options)
        low, high = recipe.chain.experts
        if len(pool) < low or (high is not None and len(pool) > high) or recipe.chain.needs:
            continue
        told = ", ".join(f"{key} {value:g}" for key, value in options.items())
        name = f"{method}{f' {told}' if told else ''}{suffix}"
        title = f"{_words(method)}{f' ({told})' if told else ''} of {', '.join(pool.names)}"
        make = by_merging(name, title, pool, recipe)
        found.append(Member(name, "composition", title, method, make))
    return found


def _mergeable(entry: registry.Entry, kind: Literal["full", "lora"], *, named: bool) -> bool:
    """Tell whether a method merges without data; a named one need not be meant for such experts."""
    if not named:
        return fits(entry, "nothing", kind, parts=False)
    possible = data_needed(entry) == "nothing" and not keeps_parts(entry)
    return possible and ("adapters" not in entry.needs or kind == "lora")


def _others(wishes: Wishes, kind: Literal["full", "lora"]) -> list[str]:
    """Return merging methods that were named and are not among the usual ones."""
    known = {entry.name for entry in registry.entries("merge")}
    usual = (
        {name for name, _ in MERGES[kind]}
        | {AVERAGE}
        | {entry.name for entry in registry.entries("fit")}
    )
    return [name for name in wishes.methods or () if name in known and name not in usual]


def _parts(pool: Pool, first: str, wishes: Wishes) -> list[Member]:
    found = []
    for method in PARTS:
        entry = registry.get("merge", method)
        if not wishes.wants(method) or not keeps_parts(entry):
            continue
        recipe = Recipe.of(method, seed=wishes.seed, task=first)
        name, title = f"{method} for {first}", f"{_words(method)}, the parts of {first}"
        make = by_merging(name, title, pool, recipe)
        found.append(Member(name, "composition", title, method, make))
    return found


def _words(name: str) -> str:
    return name.replace("_", " ")
