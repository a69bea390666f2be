"""mergekit's merging methods: their parameters, what they need, and the chains they mean.

A name in a mergekit YAML means mergekit's rule, which is not always the rule of the paper: every
tensor is ranked alone, weights enter the vote, ``rescale`` keeps the L1 norm. Where the registered
method of that name has a variant for it, that is used; else the chain is composed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from taskloom.algebra import Chain, Step, chain, drop, elect, keep, mean
from taskloom.algebra import scale as scaled
from taskloom.algebra.each import each, keep_l1
from taskloom.algebra.rank import drop_by_rank
from taskloom.algebra.sphere import arc
from taskloom.algebra.threshold import band
from taskloom.errors import PlanError, nearest
from taskloom.runs.mergekit.settings import Parameter

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Numbers:
    """The parameters of one output tensor.

    Attributes
    ----------
    shared
        By name.
    own
        For every input that is merged, in order: by name.
    based
        Whether there is a base among the inputs.
    seed
        Of random draws.
    roomy
        The tensor is so large that each share of its entries is at least one, and all fit into it.
    """

    shared: Values
    own: tuple[Values, ...]
    based: bool
    seed: int
    roomy: bool = True

    def weights(self) -> list[float]:
        """One per merged input."""
        return [float(values["weight"]) for values in self.own]


@dataclass(frozen=True)
class Method:
    """One of mergekit's methods.

    Attributes
    ----------
    base
        ``"ignored"``: a base is an input like the others; ``"required"`` or ``"optional"``: it is the
        origin of task vectors.
    inputs
        Smallest and largest number of inputs without the base (with it, if the base is ignored).
    pair
        The base is the first of two models that are merged as they are.
    """

    name: str
    base: Literal["ignored", "required", "optional"]
    inputs: tuple[int, int | None]
    parameters: Mapping[str, Parameter]
    compose: Callable[[Numbers], Chain | None]
    pair: bool = False


def find_method(name: str) -> Method:
    """Return the method, or refuse it by name.

    Raises
    ------
    PlanError
        No method of mergekit 0.1.5 is called so.
    """
    found = _methods().get(name)
    if found is None:
        guess = nearest(name, _methods())
        did = f"did you mean {guess!r}? " if guess else ""
        listed = ", ".join(sorted(_methods()))
        raise PlanError(f"unknown merge_method {name!r}: {did}Methods: {listed}")
    return found


def parameters_of_others(method: Method) -> dict[str, list[str]]:
    """Parameters that only other methods have -> those methods."""
    found: dict[str, list[str]] = {}
    for other in _methods().values():
        for name in other.parameters:
            if name not in method.parameters:
                found.setdefault(name, []).append(other.name)
    return found


def _refuse_zero(weights: Sequence[float], what: str) -> None:
    if abs(sum(weights)) < 1e-8:
        raise PlanError(
            f"the weights {list(weights)} sum to 0, so that {what}",
            hint="Give weights with another sum, or normalize: false",
        )


def _linear(numbers: Numbers) -> Chain:
    weights = numbers.weights()
    normalize = numbers.shared["normalize"]
    if normalize:
        _refuse_zero(weights, "their mean is undefined")
    return chain(mean(weights=weights, normalize=normalize), space="weight")


def _slerp(numbers: Numbers) -> Chain:
    step = arc(numbers.shared["t"], threshold=0.9995, floor=1e-8, zero="right angle")
    return chain(step, space="weight", experts=(2, 2))


def _nuslerp(numbers: Numbers) -> Chain:
    from taskloom.merging.methods.nuslerp import nuslerp

    shared, (first, second) = numbers.shared, numbers.weights()
    _refuse_zero([first, second], "they name no point of the arc")
    column = "column" if shared["nuslerp_row_wise"] else "row"
    return nuslerp(
        weights=(first, second),
        scope="tensor" if shared["nuslerp_flatten"] else column,  # type: ignore[arg-type]
        space="delta" if numbers.based else "weight",
        variant="mergekit",
    )


def _multislerp(numbers: Numbers) -> Chain:
    from taskloom.merging.methods.multislerp import multislerp

    weights, normalize = numbers.weights(), numbers.shared["normalize_weights"]
    if normalize:
        _refuse_zero(weights, "their mean is undefined")
    space: Literal["delta", "weight"] = "delta" if numbers.based else "weight"
    return multislerp(weights=weights, normalize=normalize, space=space, floor=numbers.shared["eps"])


def _karcher(numbers: Numbers) -> Chain:
    from taskloom.merging.methods.karcher import karcher

    tolerance = numbers.shared["tol"]
    return karcher(iterations=numbers.shared["max_iter"], tolerance=tolerance, floor=tolerance)


def _model_stock(numbers: Numbers) -> Chain:
    from taskloom.merging.methods.model_stock import model_stock

    scope: Literal["row", "tensor"] = "row" if numbers.shared["filter_wise"] else "tensor"
    return model_stock(scope=scope, variant="mergekit")


def _sce(numbers: Numbers) -> Chain:
    from taskloom.merging.methods.sce import sce

    return sce(select_topk=numbers.shared["select_topk"], variant="mergekit")


def _nearswap(numbers: Numbers) -> Chain:
    from taskloom.merging.methods.nearswap import nearswap

    return nearswap(t=numbers.shared["t"])


def _arcee_fusion(_: Numbers) -> Chain:
    from taskloom.merging.methods.arcee_fusion import arcee_fusion

    return arcee_fusion()


def _ram(numbers: Numbers) -> Chain:
    from taskloom.merging.methods.ram import ram

    return ram(epsilon=numbers.shared["epsilon"])


def _ramplus(numbers: Numbers) -> Chain:
    from taskloom.merging.methods.ram import ramplus_tl

    return ramplus_tl(**numbers.shared)


def _passthrough(numbers: Numbers) -> Chain | None:
    factor = numbers.own[0]["scale"]
    return None if factor is None else chain(scaled(factor), space="weight", experts=(1, 1))


Head = Callable[[Values, int], Step]


def has_room(own: Sequence[Values], numel: int) -> bool:
    """Say whether shares of a tensor of ``numel`` entries come to one and more, and fit into it."""
    return all(
        1 <= int(values.get("density", 1) * numel) <= numel - int(values.get("gamma", 0) * numel)
        for values in own
    )


def _task_vectors(head: Head | None, *, vote: bool) -> Callable[[Numbers], Chain]:
    """Sparsify each task vector, weigh, let them vote on signs, add up or average, scale."""

    def compose(numbers: Numbers) -> Chain:
        shared, weights = numbers.shared, numbers.weights()
        steps: list[Step] = []
        if head is not None and any(values["density"] < 1 for values in numbers.own):
            heads = [head({**values, "roomy": numbers.roomy}, numbers.seed) for values in numbers.own]
            same = all(
                values == {**numbers.own[0], "weight": values["weight"]} for values in numbers.own
            )
            sparse = heads[0] if same else each(heads)
            steps.append(keep_l1(sparse) if shared["rescale"] else sparse)
        normalize = shared["normalize"]
        if vote:
            steps += [elect("plus", weights), mean("kept", weights, normalize=normalize)]
        else:
            if normalize:
                _refuse_zero(weights, "they cannot be normalized")
            steps.append(mean(weights=weights, normalize=normalize))
        if shared["lambda"] != 1:
            steps.append(scaled(shared["lambda"]))
        return chain(*steps)

    return compose


def _largest(values: Values, _: int) -> Step:
    if values["roomy"]:
        return keep(values["density"], "tensor")
    return band(values["density"], least=1 if values["density"] > 0 else 0)


def _crumbs(values: Values, _: int) -> Step:
    return band(values["density"], values["gamma"])


def _drop(values: Values, seed: int) -> Step:
    return drop(1 - values["density"], rescale=False, seed=seed)


def _drop_by_rank(values: Values, seed: int) -> Step:
    return drop_by_rank(values["density"], values["epsilon"], rescale=False, seed=seed)


@lru_cache
def _methods() -> dict[str, Method]:
    weight = Parameter("weight", reach="expert", required=True)
    int8 = Parameter("int8_mask", "switch", default=False)

    def family(
        name: str, head: Head | None, *more: Parameter, vote: bool, normalize: bool, rescale: bool
    ) -> Method:
        parameters = (
            weight,
            Parameter("density", reach="expert", default=1.0, low=0, high=1),
            Parameter("lambda", default=1.0),
            Parameter("normalize", "switch", default=normalize),
            Parameter("rescale", "switch", default=rescale),
            int8,
            *more,
        )
        return method(name, "required", (1, None), _task_vectors(head, vote=vote), *parameters)

    def method(
        name: str,
        base: Literal["ignored", "required", "optional"],
        inputs: tuple[int, int | None],
        compose: Callable[[Numbers], Chain | None],
        *parameters: Parameter,
        pair: bool = False,
    ) -> Method:
        return Method(name, base, inputs, {p.name: p for p in parameters}, compose, pair)

    gamma = Parameter("gamma", reach="expert", default=0.01, low=0, high=1)
    window = Parameter("epsilon", reach="expert", default=0.15, low=0, high=1)
    threshold = Parameter("epsilon", default=1e-5, low=0)
    found = [
        method(
            "linear",
            "ignored",
            (1, None),
            _linear,
            Parameter("weight", reach="input", required=True),
            Parameter("normalize", "switch", default=True),
        ),
        method("slerp", "required", (1, 1), _slerp, Parameter("t", required=True), pair=True),
        method(
            "nuslerp",
            "optional",
            (2, 2),
            _nuslerp,
            weight,
            Parameter("nuslerp_row_wise", "switch", default=False),
            Parameter("nuslerp_flatten", "switch", default=True),
        ),
        method(
            "multislerp",
            "optional",
            (1, None),
            _multislerp,
            weight,
            Parameter("normalize_weights", "switch", default=True),
            Parameter("eps", default=1e-8, low=0),
        ),
        method(
            "karcher",
            "ignored",
            (1, None),
            _karcher,
            Parameter("max_iter", "count", default=10, low=0),
            Parameter("tol", default=1e-5, low=0),
        ),
        family("task_arithmetic", None, vote=False, normalize=False, rescale=False),
        family("ties", _largest, vote=True, normalize=True, rescale=False),
        family("dare_linear", _drop, vote=False, normalize=False, rescale=True),
        family("dare_ties", _drop, vote=True, normalize=False, rescale=True),
        family("breadcrumbs", _crumbs, gamma, vote=False, normalize=False, rescale=False),
        family("breadcrumbs_ties", _crumbs, gamma, vote=True, normalize=False, rescale=False),
        family("della", _drop_by_rank, window, vote=True, normalize=True, rescale=True),
        family("della_linear", _drop_by_rank, window, vote=False, normalize=False, rescale=True),
        method(
            "sce",
            "required",
            (1, None),
            _sce,
            Parameter("select_topk", default=1.0, low=0, high=1),
            int8,
        ),
        method("ram", "required", (1, None), _ram, threshold),
        method(
            "ramplus_tl",
            "required",
            (1, None),
            _ramplus,
            threshold,
            Parameter("r", default=0.1, low=0),
            Parameter("alpha", default=0.2, low=0),
        ),
        method(
            "model_stock",
            "required",
            (2, None),
            _model_stock,
            Parameter("filter_wise", "switch", default=False),
        ),
        method("nearswap", "required", (1, 1), _nearswap, Parameter("t", required=True, low=0)),
        method("arcee_fusion", "required", (1, 1), _arcee_fusion, pair=True),
        method("passthrough", "ignored", (1, 1), _passthrough, Parameter("scale", reach="input")),
    ]
    return {one.name: one for one in found}
