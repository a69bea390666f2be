"""ESM, embedding space maps: what fine-tuning did to the base's features, as one linear map."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats, checked_beside
from taskloom.choose.space_map import SpaceMap
from taskloom.errors import DataError
from taskloom.registry import register


@register(
    "surrogate",
    paper="Schulte, Hamborg and Akbik, Less is more, EMNLP 2024 (2410.15148), section 3",
    partly={
        "ESM (Embedding Space Maps)": "maps are made, stored and ranked by, with bytes and seconds "
        "beside full models; regret beside theirs is on the leaderboard once estimates are measured"
    },
)
def esm(
    base_features: ArrayLike,
    tuned_features: ArrayLike,
    *,
    solver: Literal["least_squares", "adamw"] = "least_squares",
    penalty: Annotated[float, Field(ge=0)] = 1e-3,
    epochs: Annotated[int, Field(ge=1)] = 10,
    batch_size: Annotated[int, Field(ge=1)] = 32,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3,
    weight_decay: Annotated[float, Field(ge=0)] = 0.01,
    seed: int = 0,
) -> SpaceMap:
    """Fit the linear map that takes the base's features nearest to the tuned model's.

    A score of mapped features stands for the score of the tuned model's. An invertible map adds no
    information to the base's features: only scores that depend on their scale and conditioning, such as
    LogME, see a difference at all; H-score without shrinkage does not.

    Where paper, code and we differ: the released code (davidschulte/hf-dataset-selector) trains a linear
    layer by AdamW with a rate that falls to 0 and gradients cut at length 1 (``solver="adamw"``); by
    default we solve the same mean squared error at once, with a penalty on the distance from the
    identity, that is, from the base as it is.

    Parameters
    ----------
    base_features
        ``(N, D)`` of the base on examples of the source's task.
    tuned_features
        ``(N, E)`` of the tuned model on the same examples.
    solver
        Closed form, or the released training.
    penalty
        Of the closed form: penalty on the squared distance from the identity (from 0 where E is not D),
        in units of the mean squared singular value of the centred base features.
    epochs, batch_size, learning_rate, weight_decay, seed
        Of ``"adamw"``.

    Raises
    ------
    DataError
        Shapes that do not fit each other, fewer than two rows.
    NumericalError
        NaN, infinity, or features that are the same for every example.

    Examples
    --------
    >>> base = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> tuned = base[:, ::-1] + [0.5, -0.5]
    >>> esm(base, tuned, penalty=0).apply([[3.0, 2.0]]).round(4).tolist()
    [[2.5, 2.5]]
    """
    x = checked_beside("esm", "base_features", base_features)
    y = checked_beside("esm", "tuned_features", tuned_features)
    if len(x) != len(y):
        raise DataError(
            f"esm: expected both features of the same examples, found {len(x)} and {len(y)} rows",
            hint="Run both models on the same inputs",
        )
    if solver == "least_squares":
        return _solved(x, y, penalty)
    return _trained(x, y, epochs, batch_size, learning_rate, weight_decay, seed)


def explained(found: SpaceMap, base_features: ArrayLike, tuned_features: ArrayLike) -> float:
    """Return the share of what fine-tuning changed that a map tells: 1 is all, 0 no more than the base.

    One minus the squared error of the map over that of the base's own features (of the mean of the tuned
    ones where widths differ). Below 0 the map is worse than none; 1 where nothing was changed.
    """
    x, y = (np.asarray(each, dtype=np.float64) for each in (base_features, tuned_features))
    nothing = y - x if x.shape == y.shape else y - y.mean(0)
    changed = float((nothing**2).sum())
    if changed == 0:
        return 1.0
    return 1 - float(((y - found.apply(x)) ** 2).sum()) / changed


def _solved(x: Floats, y: Floats, penalty: float) -> SpaceMap:
    start = np.eye(x.shape[1]) if x.shape[1] == y.shape[1] else np.zeros((x.shape[1], y.shape[1]))
    centred, change = x - x.mean(0), (y - x @ start) - (y - x @ start).mean(0)
    if penalty == 0:
        step = np.linalg.lstsq(centred, change, rcond=None)[0]
    else:
        gram = centred.T @ centred
        gram.flat[:: len(gram) + 1] += penalty * np.trace(gram) / len(gram)
        step = np.linalg.solve(gram, centred.T @ change)
    weight = (start + step).T
    return SpaceMap(weight.astype(np.float32), (y.mean(0) - weight @ x.mean(0)).astype(np.float32))


def _trained(
    x: Floats, y: Floats, epochs: int, batch_size: int, rate: float, decay: float, seed: int
) -> SpaceMap:
    generator = torch.Generator().manual_seed(seed)
    inputs, wanted = (torch.from_numpy(each.astype(np.float32)) for each in (x, y))
    bound = inputs.shape[1] ** -0.5  # of a linear layer's first numbers in torch
    weight = torch.empty(wanted.shape[1], inputs.shape[1]).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(wanted.shape[1]).uniform_(-bound, bound, generator=generator)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    steps = epochs * -(-len(inputs) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    for _ in range(epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for rows in torch.split(order, batch_size):
            optimizer.zero_grad()
            guess = torch.nn.functional.linear(inputs[rows], weight, bias)
            torch.nn.functional.mse_loss(guess, wanted[rows]).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    return SpaceMap(weight.detach().numpy(), bias.detach().numpy())
