"""The rules that every merging method must keep, applied to yours in one call.

>>> from taskloom.algebra import chain, mean, scale
>>> def half(*, factor: float = 0.5):
...     '''Add half the mean task vector.'''
...     return chain(mean(), scale(factor))
>>> check_method(half, skip={"equal_experts"})

A method that sums instead of averaging, draws random numbers or takes its experts in order breaks
some rules by what it is; name those in ``skip``. Everything else is a fault.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from taskloom.algebra import Chain, Need
from taskloom.errors import NumericalError
from taskloom.merging import executor
from taskloom.merging.api import merge, merge_files
from taskloom.merging.recipe import Recipe
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.pool import Expert, Pool
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.statistic import Statistic
from taskloom.store.writer import write_safetensors

Weights = dict[str, Tensor]

_SHAPES = {
    "matrix": (6, 5),
    "cube": (3, 2, 4),
    "vector": (7,),
    "scalar": (),
    "single": (1,),
    "empty": (0, 4),
    "column": (5, 1),
}
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Trial:
    """A method under test with its options."""

    name: str
    compose: Callable[[int | None], Recipe]
    draws: bool  # takes a seed

    @property
    def recipe(self) -> Recipe:
        """The recipe with the default seed."""
        return self.compose(None)

    @property
    def chain(self) -> Chain:
        """The composition."""
        return self.recipe.chain

    @property
    def count(self) -> int:
        """Three experts, or as many as the method takes."""
        low, high = self.chain.experts
        return max(low, 3 if high is None else min(3, high))

    def run(self, base: Any, experts: Mapping[str, Any], **call: Any) -> Weights:
        """Merge, and hold names, order, shapes and dtypes against the base's."""
        recipe = call.pop("recipe", self.recipe)
        given = make_statistics(self.chain, experts)
        merged = merge(base, experts, recipe, statistics=given, **call)
        if isinstance(base, dict):
            _require(set(merged) == set(base), f"expected tensors {list(base)}, found {list(merged)}")
            for name, tensor in merged.items():
                _require(
                    tensor.shape == base[name].shape,
                    f"tensor {name!r} has shape {list(tensor.shape)}, not {list(base[name].shape)}",
                )
        return merged


def check_method(
    method: str | Callable[..., Chain], *, skip: Collection[str] = (), **options: Any
) -> None:
    """Hold a merging method against every rule of `CHECKS`.

    Parameters
    ----------
    method
        A registered name, or a function that returns a chain.
    skip
        Names of rules that the method breaks by what it is.
    **options
        Options to run it with; its defaults otherwise.

    Raises
    ------
    AssertionError
        A rule is broken; the message names method, rule and what was found.
    ValueError
        ``skip`` names a rule that does not exist.
    """
    if unknown := set(skip) - set(CHECKS):
        raise ValueError(f"there are no rules {sorted(unknown)}; there are {', '.join(CHECKS)}")
    for name in CHECKS:
        if name not in skip:
            check_rule(name, method, **options)


def check_rule(rule: str, method: str | Callable[..., Chain], **options: Any) -> None:
    """Hold a method against one rule of `CHECKS`; see `check_method`."""
    trial = _trial(method, options)
    try:
        CHECKS[rule](trial)
    except Exception as error:
        said = str(error) if isinstance(error, AssertionError) else repr(error)
        raise AssertionError(f"{trial.name} breaks the rule {rule!r}: {said}") from error


def _trial(method: str | Callable[..., Chain], options: dict[str, Any]) -> Trial:
    if isinstance(method, str):
        drawn = "seed" in options
        probe = Recipe.of(method, seed=None if drawn else 0, **options)
        draws = not drawn and Recipe.of(method, seed=1, **options) != probe
        return Trial(method, lambda seed: Recipe.of(method, seed=seed, **options), draws)
    name = getattr(method, "__name__", repr(method))
    draws = "seed" in inspect.signature(method).parameters and "seed" not in options

    def compose(seed: int | None) -> Recipe:
        given = {**options, "seed": seed} if draws and seed is not None else options
        return Recipe(name, given, method(**given))

    return Trial(name, compose, draws)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def make_base(dtype: torch.dtype = torch.float32) -> Weights:
    """Return small weights of every rank, exact in bfloat16, with an integer and a boolean tensor."""
    generator = torch.Generator().manual_seed(0)
    base: Weights = {
        name: (torch.randint(-64, 65, shape, generator=generator) / 64).to(dtype)
        for name, shape in _SHAPES.items()
    }
    return base | {"ids": torch.arange(5), "mask": torch.tensor([True, False])}


def make_experts(base: Weights, count: int) -> dict[str, Weights]:
    """Return experts whose task vectors are odd multiples of 1/64, so that three never cancel."""
    experts = {}
    for k in range(count):
        generator = torch.Generator().manual_seed(k + 1)
        experts["xyz"[k] if count <= 3 else f"e{k}"] = {
            name: tensor
            + ((2 * torch.randint(-32, 32, tensor.shape, generator=generator) + 1) / 64).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor + 1
            if tensor.dtype != torch.bool
            else ~tensor
            for name, tensor in base.items()
        }
    return experts


def make_statistics(
    chain: Chain, experts: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, list[Statistic]]:
    """Return the statistics a chain needs, drawn by expert's name; of every tensor but ``vector``."""
    return {
        name: [_statistic(need, name, list(experts), weights) for need in chain.needs]
        for name, weights in experts.items()
    }


def _statistic(need: Need, name: str, names: list[str], weights: Mapping[str, Tensor]) -> Statistic:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    infos = {n: i for n, i in MemoryCheckpoint(weights).tensors.items() if i.is_float and n != "vector"}
    tensors = {}
    if need.how == "slice":
        for tensor, info in infos.items():
            tensors[tensor] = torch.randint(0, 4, info.shape, generator=generator) / 4
    elif need.how == "whole":
        for tensor, info in infos.items():
            if len(info.shape) == 2 and info.numel:
                seen = torch.randint(-3, 4, (9, info.shape[1]), generator=generator) / 2
                tensors[tensor] = seen.T @ seen
    scores = {tensor: float(torch.rand((), generator=generator)) for tensor in infos}
    gaps = {
        other: float(torch.rand((), generator=generator)) for other in sorted(names) if other != name
    }
    table = {"norm": "3.5", "layers": json.dumps(scores), "gaps": json.dumps(gaps)}
    return Statistic.of(need.kind, tensors, grouping="tensor", **table)


def _floats(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}


def _compare(found: Weights, expected: Weights, what: str, tolerance: float = 0.0) -> None:
    for name, wanted in _floats(expected).items():
        got = found[name].detach().double()
        gap = (got - wanted.detach().double()).abs()
        allowed = tolerance * wanted.detach().double().abs().clamp(min=1.0)
        wrong = int((~(gap <= allowed)).sum())
        _require(wrong == 0, f"{what}: {wrong} of {gap.numel()} entries of tensor {name!r} differ")


def _same_bytes(found: Weights, expected: Weights, what: str) -> None:
    for name, wanted in expected.items():
        got = found[name]
        same = got.dtype == wanted.dtype and MemoryCheckpoint({"w": got}).digest() == (
            MemoryCheckpoint({"w": wanted}).digest()
        )
        _require(same, f"{what}: the bytes of tensor {name!r} differ")


def zero_task_vectors(trial: Trial) -> None:
    """Get the base from experts that are the base: exactly, or to rounding in weight space."""
    base = make_base()
    experts = {f"e{k}": dict(base) for k in range(trial.count)}
    tolerance = 0.0 if trial.chain.space == "delta" else 1e-6
    _compare(trial.run(base, experts), base, "experts equal to the base", tolerance)


def one_expert(trial: Trial) -> None:
    """Get a finite model from the smallest pool the method takes."""
    base = make_base()
    found = trial.run(base, make_experts(base, trial.chain.experts[0]))
    for name, tensor in _floats(found).items():
        _require(bool(torch.isfinite(tensor).all()), f"tensor {name!r} is not finite")


def equal_experts(trial: Trial) -> None:
    """Get the expert back from equal experts."""
    base = make_base()
    (expert,) = make_experts(base, 1).values()
    experts = {f"e{k}": dict(expert) for k in range(trial.count)}
    found = trial.run(base, experts)
    _compare(found, _floats(expert), f"{trial.count} equal experts", 1e-6)


def permutation(trial: Trial) -> None:
    """Get the same model whatever the order of the experts."""
    base = make_base()
    experts = make_experts(base, trial.count)
    backwards = dict(reversed(experts.items()))
    _compare(trial.run(base, backwards), trial.run(base, experts), "experts reversed", 1e-6)


def inputs_unchanged(trial: Trial) -> None:
    """Leave base and experts as they are."""
    base = make_base()
    experts = make_experts(base, trial.count)
    copies = [{n: t.clone() for n, t in w.items()} for w in (base, *experts.values())]
    trial.run(base, experts)
    for weights, copy in zip((base, *experts.values()), copies, strict=True):
        _same_bytes(weights, copy, "an input was changed")


def disk_is_memory(trial: Trial) -> None:
    """Get the bytes from and to disk that merging in memory gives."""
    base = make_base()
    experts = make_experts(base, trial.count)
    expected = trial.run(base, experts)
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            name: _save(Path(folder) / name, weights)
            for name, weights in {"base": base, **experts}.items()
        }
        origin = paths.pop("base")
        given = {
            name: [each.save(Path(folder) / f"{name}-{each.kind}.safetensors") for each in several]
            for name, several in make_statistics(trial.chain, experts).items()
        }
        report = merge_files(origin, paths, trial.recipe, Path(folder) / "out", statistics=given)
        written = SafetensorsCheckpoint(report.path)
        _same_bytes({n: written.read(n) for n in written.tensors}, expected, "disk and memory")


def _save(folder: Path, weights: Weights) -> Path:
    folder.mkdir()
    infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in weights.items()}
    write_safetensors(folder / "model.safetensors", infos, weights.items(), {"format": "pt"})
    return folder


def any_slices(trial: Trial) -> None:
    """Get the same bytes however small the slices are that tensors are read in."""
    base = make_base()
    high = trial.chain.experts[1]
    # with five rows and more torch's own sums begin to depend on the shape
    experts = make_experts(base, 9 if high is None else trial.count)
    for k, weights in enumerate(experts.values()):  # no longer exact: the order of sums shows
        for name in _floats(weights):
            weights[name] = weights[name] * (1 + 0.1 * k) / 3
    expected = trial.run(base, experts)
    for size in (1, 7, 16):
        with _slice(size):
            _same_bytes(trial.run(base, experts), expected, f"slices of {size} elements")


@contextmanager
def _slice(size: int) -> Iterator[None]:
    before = executor.SLICE
    executor.SLICE = size
    try:
        yield
    finally:
        executor.SLICE = before


def seeds(trial: Trial) -> None:
    """Get the same bytes from the same seed, others from another if the method draws."""
    base = make_base()
    experts = make_experts(base, trial.count)
    first = trial.run(base, experts, recipe=trial.compose(1))
    _same_bytes(trial.run(base, experts, recipe=trial.compose(1)), first, "one seed, twice")
    if trial.draws:
        other = trial.run(base, experts, recipe=trial.compose(2))
        differ = any(not torch.equal(other[name], first[name]) for name in _floats(first))
        _require(differ, "another seed gives the same model")


def dtypes(trial: Trial) -> None:
    """Take and give every dtype, near what float64 gives."""
    base = make_base(torch.float64)
    experts = make_experts(base, trial.count)
    exact = trial.run(base, experts)
    for dtype in _DTYPES:
        pool = {name: _cast(weights, dtype) for name, weights in experts.items()}
        tolerance = 8 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 2e-6
        found = trial.run(_cast(base, dtype), pool)
        for name, tensor in _floats(found).items():
            _require(tensor.dtype == dtype, f"{dtype} in, {tensor.dtype} out (tensor {name!r})")
        _compare(found, exact, f"{dtype} against float64", tolerance)
        out = trial.run(base, experts, dtype=dtype)
        for name, tensor in _floats(out).items():
            _require(tensor.dtype == dtype, f"dtype={dtype} gave {tensor.dtype} (tensor {name!r})")
        _compare(out, exact, f"dtype={dtype}", tolerance)


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in weights.items()}


class CountingCheckpoint:
    """A checkpoint that counts the bytes read of each tensor."""

    def __init__(self, inner: Checkpoint) -> None:
        self._inner = inner
        self.bytes = dict.fromkeys(inner.tensors, 0)

    @property
    def label(self) -> str:
        """The inner checkpoint's."""
        return self._inner.label

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The inner checkpoint's."""
        return self._inner.tensors

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Read from the inner checkpoint and count."""
        tensor = self._inner.read(name, rows)
        self.bytes[name] += tensor.nbytes
        return tensor

    def read_range(self, name: str, start: int, stop: int) -> Tensor:
        """Read from the inner checkpoint and count."""
        tensor = self._inner.read(name).reshape(-1)[start:stop]
        self.bytes[name] += tensor.nbytes
        return tensor

    def digest(self) -> str:
        """Return the inner checkpoint's."""
        return self._inner.digest()


def declared_reads(trial: Trial) -> None:
    """Read what the plan says will be read, in slices or whole."""
    base = make_base()
    for size in (executor.SLICE, 7):
        origin = CountingCheckpoint(MemoryCheckpoint(base))
        counted = {
            name: CountingCheckpoint(MemoryCheckpoint(weights))
            for name, weights in make_experts(base, trial.count).items()
        }
        pool = Pool(origin, tuple(Expert(name, each) for name, each in counted.items()))
        beside = [
            [replace(each, checkpoint=CountingCheckpoint(each.checkpoint)) for each in several]
            for several in make_statistics(trial.chain, make_experts(base, trial.count)).values()
        ]
        with _slice(size):
            plan = executor.plan_merge(pool, trial.chain, statistics=beside)
        dict(executor.execute(plan))
        reads = {output.name: plan.output_reads(output) for output in plan.program.outputs}
        for name, each in counted.items():
            for tensor in plan.parameters:
                once = each.tensors[tensor].nbytes
                _require(
                    each.bytes[tensor] == once * reads[tensor],
                    f"{reads[tensor]} reads declared, but {each.bytes[tensor]} bytes of tensor "
                    f"{tensor!r} ({once} bytes) of expert {name!r} were read",
                )
        others = [cast("CountingCheckpoint", each.checkpoint) for several in beside for each in several]
        found = sum(sum(each.bytes.values()) for each in (origin, *counted.values(), *others))
        _require(found == plan.bytes_read, f"{plan.bytes_read} bytes declared, {found} read")


def passthrough(trial: Trial) -> None:
    """Return integer and boolean tensors as the base's."""
    base = make_base()
    found = trial.run(base, make_experts(base, trial.count))
    for name in ("ids", "mask"):
        _require(torch.equal(found[name], base[name]), f"tensor {name!r} is not the base's")


def extreme_scales(trial: Trial) -> None:
    """Get finite results from very small and very large weights."""
    for size in (1e-30, 1e30):
        base = {n: t * size if t.is_floating_point() else t for n, t in make_base().items()}
        experts = {
            name: {n: t * size if t.is_floating_point() else t for n, t in weights.items()}
            for name, weights in make_experts(make_base(), trial.count).items()
        }
        for name, tensor in _floats(trial.run(base, experts)).items():
            finite = bool(torch.isfinite(tensor).all())
            _require(finite, f"weights of size {size:g}: tensor {name!r} is not finite")


def nonfinite_refused(trial: Trial) -> None:
    """Refuse NaN and infinity by owner, tensor and count."""
    for bad in (float("nan"), float("inf"), -float("inf")):
        base = make_base()
        experts = make_experts(base, trial.count)
        name = list(experts)[-1]
        experts[name]["matrix"][2, :2] = bad
        _refused(trial, base, experts, f"expert {name!r}")
        if trial.chain.space == "delta":
            experts = make_experts(base, trial.count)
            base["matrix"][2, :2] = bad
            _refused(trial, base, experts, "the base")


def _refused(trial: Trial, base: Weights, experts: Mapping[str, Weights], owner: str) -> None:
    for size in (executor.SLICE, 1):
        try:
            with _slice(size):
                trial.run(base, experts)
        except NumericalError as error:
            for part in (owner, "'matrix'", "2 NaN or infinite"):
                _require(part in str(error), f"the message lacks {part!r}: {error}")
        else:
            raise AssertionError(f"2 values of {owner} are not finite, and nothing was said")


def tied_tensors(trial: Trial) -> None:
    """Count a tensor with two names once and return it under both."""
    base = make_base()
    experts = make_experts(base, trial.count)
    expected = trial.run(base, experts)
    tied = {name: {**weights, "head": weights["matrix"]} for name, weights in experts.items()}
    found = trial.run({**base, "head": base["matrix"]}, tied)
    _same_bytes({n: found[n] for n in expected}, expected, "with a second name for one tensor")
    _require(found["head"] is found["matrix"], "the two names are no longer one tensor")


#: the rules by name
CHECKS: dict[str, Callable[[Trial], None]] = {
    check.__name__: check
    for check in (
        zero_task_vectors,
        one_expert,
        equal_experts,
        permutation,
        inputs_unchanged,
        disk_is_memory,
        any_slices,
        seeds,
        dtypes,
        declared_reads,
        passthrough,
        extreme_scales,
        nonfinite_refused,
        tied_tensors,
    )
}
