"""DoReMi: domain weights by a small model that is trained where it lags behind another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from taskloom.errors import NumericalError
from taskloom.learn.mixtures.domains import Domain, Weights, check_domains
from taskloom.learn.mixtures.proxy import (
    ByteModel,
    Count,
    ProxyOptions,
    Rate,
    byte_losses,
    mean_loss,
    optimiser,
    to_bytes,
    train_proxy,
)
from taskloom.progress import Progress
from taskloom.registry import register

Floats = NDArray[np.float64]


@register(
    "mixture",
    paper="Xie et al., DoReMi: optimizing data mixtures speeds up language model pretraining, "
    "NeurIPS 2023, algorithm 1",
    needs=("texts of all domains",),
    partly={
        "DoReMi": "training a large model on the resampled mixture, with its few-shot accuracy beside "
        "that of default weights"
    },
)
def doremi(
    domains: Sequence[Domain],
    seed: int,
    progress: Progress,
    /,
    *,
    steps: Count = 300,
    batch_size: Count = 32,
    learning_rate: Rate = 3e-3,
    hidden: Count = 192,
    max_bytes: Count = 192,
    step_size: Annotated[float, Field(gt=0)] = 1.0,
    smoothing: Annotated[float, Field(ge=0, le=1)] = 1e-3,
) -> Weights:
    """Weigh domains by how far a small model lags behind a reference on them, while it is trained there.

    A reference is trained on all texts, domains in proportion to their numbers. Then a proxy of the
    same size is trained on batches that hold every domain with the same chance. At every step, with l
    the losses of bytes, the excess of a domain is the mean over its bytes of ``max(l_proxy -
    l_reference, 0)`` (a domain that is not in the batch keeps its last one); domain weights, uniform at
    first, are multiplied by ``exp(step_size * excess)``, scaled to the sum 1 and mixed with
    ``smoothing`` of uniform weights; and the proxy takes a step on its losses weighted by them. The
    result is the mean of the weights over all steps.

    Where paper, code and we differ: the paper smooths by 1e-3 and the released code by 1e-4 by default;
    the paper's is ours. Clipping is per byte, before averaging, as in both. As in the code, the weights
    of a batch's bytes are divided by their sum. Models and tokens are language models of 120 M
    parameters and more over 50,000 tokens there, and a small model of bytes here
    (`taskloom.learn.mixtures.proxy`).

    Parameters
    ----------
    domains, seed, progress
        Given by `taskloom.mix`.
    steps, batch_size, learning_rate, hidden, max_bytes
        Of reference and proxy, see `taskloom.learn.mixtures.proxy.ProxyOptions`.
    step_size
        How fast weights follow the excess.
    smoothing
        Share of uniform weights that is mixed in at every step.

    Returns
    -------
    Weights
        Shares to sample by. Measured of every domain: its share of the texts, and the validation losses
        of reference and proxy in nats per byte.
    """
    check_domains(domains, "doremi")
    options = ProxyOptions(
        hidden=hidden,
        max_bytes=max_bytes,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    everything = [text for domain in domains for text in domain.train]
    reference = train_proxy(everything, options, progress=progress, label="train reference")
    proxy, trace = _train(domains, reference, options, step_size, smoothing, progress)
    names = [domain.name for domain in domains]
    shares = [len(domain.train) / len(everything) for domain in domains]
    return Weights(
        weights=dict(zip(names, trace.mean(0).tolist(), strict=True)),
        meaning="share to sample by",
        measured={
            "share of the texts": dict(zip(names, shares, strict=True)),
            "reference's loss": _losses(reference, domains),
            "proxy's loss": _losses(proxy, domains),
        },
        trace=trace,
    )


def reweigh(weights: ArrayLike, excess: ArrayLike, *, step_size: float, smoothing: float) -> Floats:
    """Return the domain weights after one step: exponentiated gradient, then smoothing.

    Parameters
    ----------
    weights, excess
        ``(k,)``: weights that sum to 1, and the excess loss of each domain.

    Examples
    --------
    >>> reweigh([0.5, 0.3, 0.2], [0.2, 0.0, 0.6], step_size=1, smoothing=0).round(6).tolist()
    [0.478934, 0.235271, 0.285795]
    """
    with np.errstate(divide="ignore"):
        logs = np.log(np.asarray(weights, dtype=np.float64)) + step_size * np.asarray(excess)
    grown = np.exp(logs - logs.max())
    found: Floats = (1 - smoothing) * grown / grown.sum() + smoothing / len(grown)
    return found


def _train(
    domains: Sequence[Domain],
    reference: ByteModel,
    options: ProxyOptions,
    step_size: float,
    smoothing: float,
    progress: Progress,
) -> tuple[ByteModel, Floats]:
    """Train the proxy; return it and the domain weights after every step ``(steps, k)``."""
    proxy = ByteModel(options)
    adam, falling = optimiser(proxy, options)
    random = np.random.default_rng(options.seed)
    weights, excess = np.full(len(domains), 1 / len(domains)), np.zeros(len(domains))
    trace = np.empty((options.steps, len(domains)))
    for step in range(options.steps):
        where = random.integers(len(domains), size=options.batch_size)
        texts = [domains[n].train[random.integers(len(domains[n].train))] for n in where]
        batch = to_bytes(texts, options)
        losses = byte_losses(proxy(batch.contexts), batch.targets, batch.mask)
        with torch.inference_mode():
            aim = byte_losses(reference(batch.contexts), batch.targets, batch.mask)
            behind = (losses - aim).clamp(min=0).sum(1).double().numpy()
        counts = batch.mask.sum(1).double().numpy()
        for n in range(len(domains)):
            if (total := counts[where == n].sum()) > 0:
                excess[n] = behind[where == n].sum() / total
        if not np.isfinite(excess).all():
            raise NumericalError(
                f"doremi: the proxy's loss of step {step} is not finite", hint="Lower the learning rate"
            )
        weights = reweigh(weights, excess, step_size=step_size, smoothing=smoothing)
        trace[step] = weights
        each = torch.from_numpy(weights[where]).float()[:, None]
        loss = (losses * each).sum() / (batch.mask * each).sum().clamp(min=1e-12)
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        falling.step()
        progress("train proxy", step + 1, options.steps)
    return proxy.eval(), trace


def _losses(model: ByteModel, domains: Sequence[Domain]) -> Mapping[str, float]:
    return {domain.name: mean_loss(model, domain.validation) for domain in domains}
