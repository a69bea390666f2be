"""VisATB: task weights by what tasks do for one another, and by how hard they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from taskloom.errors import DataError, NumericalError
from taskloom.learn.mixtures.domains import Domain, Weights, check_domains
from taskloom.learn.mixtures.proxy import Count, ProxyOptions, Rate, mean_loss, train_proxy
from taskloom.progress import Progress
from taskloom.registry import register

Floats = NDArray[np.float64]


@register(
    "mixture",
    paper="Dai et al., Adaptive task balancing for visual instruction tuning via inter-task "
    "contribution and intra-task difficulty, WWW 2026, figure 2",
    needs=("texts of all tasks",),
    partly={
        "VisATB": "visual instruction tuning; scores of models trained with the weights beside those of "
        "uniform ones"
    },
)
def visatb(
    domains: Sequence[Domain],
    seed: int,
    progress: Progress,
    /,
    *,
    mini: Annotated[float, Field(gt=0, lt=1)] = 1 / 32,
    temperature: Annotated[float, Field(gt=0)] = 0.5,
    steps: Count = 200,
    batch_size: Count = 32,
    learning_rate: Rate = 3e-3,
    hidden: Count = 192,
    max_bytes: Count = 192,
) -> Weights:
    """Weigh tasks by what they give to others, what they get from others, and how hard they are.

    One small model is trained on a mini share of every task, and for every task one more on all of that
    task with the mini share of the others; all are validated on all tasks. `balance` turns the table of
    validation performances V into weights. They are factors of the loss of each token, whose sum is
    divided by the sum of the factors.

    Where paper, code and we differ: the rule is that of the paper's figure 2, and the temperature 0.5
    that of the released script, which holds contributions of three benchmarks as plain numbers and no
    code that measures them. There performances are accuracies and caption scores of a visual language
    model; here they are the geometric mean of the probability that a small model of bytes
    (`taskloom.learn.mixtures.proxy`) gives to the bytes of validation texts. With scores of your own,
    call `balance`. The released script passes 1 - D as ``difficulties`` and takes it off 1 again.

    Parameters
    ----------
    domains, seed, progress
        Given by `taskloom.mix`.
    mini
        Share of each task's texts in the mini sets (the figure's dashed line is at 1/32), at least one
        text.
    temperature
        Of the three softmaxes: the higher, the more even the weights.
    steps, batch_size, learning_rate, hidden, max_bytes
        Of every model, see `taskloom.learn.mixtures.proxy.ProxyOptions`.

    Returns
    -------
    Weights
        Factors of the loss. Measured of every task: contribution to and from others, difficulty, and
        the three weights made of them.
    """
    check_domains(domains, "visatb")
    options = ProxyOptions(
        hidden=hidden,
        max_bytes=max_bytes,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    small = [_mini(domain, mini, seed) for domain in domains]
    table = np.empty((len(domains) + 1, len(domains)))
    for number in range(len(table)):
        texts = [
            text
            for place, domain in enumerate(domains)
            for text in (domain.train if place == number - 1 else small[place])
        ]
        label = f"train proxy {number + 1} of {len(table)}"
        model = train_proxy(texts, options, progress=progress, label=label)
        table[number] = [exp(-mean_loss(model, domain.validation)) for domain in domains]
    found = balance(table[0], table[1:], temperature=temperature)
    names = [domain.name for domain in domains]
    measured = {
        "contribution to others": found.outward,
        "contribution from others": found.inward,
        "difficulty": found.difficulty,
        "weight by what it gives": found.by_outward,
        "weight by what it gets": found.by_inward,
        "weight by difficulty": found.by_difficulty,
    }
    return Weights(
        weights=dict(zip(names, found.weights.tolist(), strict=True)),
        meaning="factor of the loss",
        measured={
            what: dict(zip(names, values.tolist(), strict=True)) for what, values in measured.items()
        },
    )


@dataclass(frozen=True)
class Balance:
    """What `balance` finds, each ``(N,)``; ``contributions`` is ``(N, N)``, its diagonal NaN."""

    contributions: Floats
    outward: Floats
    inward: Floats
    difficulty: Floats
    by_outward: Floats
    by_inward: Floats
    by_difficulty: Floats
    weights: Floats


def balance(mini: ArrayLike, single: ArrayLike, *, temperature: float = 0.5) -> Balance:
    """Return task weights from validation performances, higher being better.

    The contribution of task i to j is ``(V_j(i + mini) - V_j(mini)) / (V_j(j + mini) - V_j(mini))``,
    the difficulty of i ``1 - V_i(mini) / V_i(i + mini)``. A task's weights are N times the softmax over
    tasks of its mean contribution to others, of minus the mean contribution that it gets, and of its
    difficulty, each divided by the temperature; the mean of the first two is averaged with the third.

    Parameters
    ----------
    mini
        ``(N,)``: V of the model that was trained on the mini set of every task, above 0.
    single
        ``(N, N)``: row i is V of the model trained on all of task i and the mini sets.
    temperature
        Of the softmaxes.

    Raises
    ------
    DataError
        Shapes that do not fit, fewer than two tasks, or a task that all of its data improves not at all.
    NumericalError
        NaN or infinity, or a performance of 0 or less.

    Examples
    --------
    >>> found = balance([0.4, 0.5], [[0.8, 0.6], [0.5, 0.9]])
    >>> found.contributions.round(6).tolist(), found.difficulty.round(6).tolist()
    ([[nan, 0.25], [0.25, nan]], [0.5, 0.444444])
    >>> found.weights.round(6).tolist()
    [1.027749, 0.972251]
    """
    base, table = np.asarray(mini, dtype=np.float64), np.asarray(single, dtype=np.float64)
    if base.ndim != 1 or len(base) < 2 or table.shape != (len(base), len(base)):
        raise DataError(
            f"visatb: expected performances (N,) and (N, N) of two tasks or more, found {base.shape} "
            f"and {table.shape}"
        )
    for values in (base, table):
        if not np.isfinite(values).all() or values.min() <= 0:
            raise NumericalError("visatb: expected finite performances above 0, found others")
    own = np.diag(table)
    if (own <= base).any():
        raise DataError(
            f"visatb: the model trained on all of task {int(np.argmax(own <= base))} does no better on "
            "it than that of the mini sets",
            hint="Train longer, take a smaller mini share, or leave the task out",
        )
    contributions = (table - base) / (own - base)
    np.fill_diagonal(contributions, np.nan)
    outward, inward = np.nanmean(contributions, axis=1), np.nanmean(contributions, axis=0)
    difficulty = 1 - base / own
    by_outward, by_inward = _softmax(outward / temperature), _softmax(-inward / temperature)
    by_difficulty = _softmax(difficulty / temperature)
    return Balance(
        contributions,
        outward,
        inward,
        difficulty,
        by_outward,
        by_inward,
        by_difficulty,
        weights=((by_outward + by_inward) / 2 + by_difficulty) / 2,
    )


def _softmax(values: Floats) -> Floats:
    grown = np.exp(values - values.max())
    scaled: Floats = len(values) * grown / grown.sum()
    return scaled


def _mini(domain: Domain, share: float, seed: int) -> list[str]:
    count = max(1, round(share * len(domain.train)))
    picked = np.random.default_rng(seed).permutation(len(domain.train))[:count]
    return [domain.train[n] for n in np.sort(picked)]
