"""How alike soft prompts are: as written, by the neurons they wake, by what they make of texts.

Vu et al., SPoT, ACL 2022, section 4 (cosines of prompts); Su et al., On transferability of prompt
tuning, NAACL 2022, section 6 (distances of prompts and overlap of activated neurons); Zhong et al.,
PANDA, 2022 (2208.10160; task embeddings under a prompt).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import Floats
from taskloom.choose.set_choice import checked_table
from taskloom.errors import DataError, NumericalError


def mean_cosine(first: ArrayLike, second: ArrayLike) -> float:
    """Return the cosine of the mean tokens of two prompts ``(L, D)``, as SPoT compares tasks.

    The order of tokens does not matter. The lengths may differ.

    Examples
    --------
    >>> round(mean_cosine([[1, 0], [0, 1]], [[0, 1], [1, 0]]), 6)
    1.0
    """
    a, b = _both(first, second)
    return _cosine(a.mean(0), b.mean(0))


def token_cosine(first: ArrayLike, second: ArrayLike) -> float:
    """Return the mean cosine of every token of one prompt with every token of the other.

    Examples
    --------
    >>> token_cosine([[1, 0], [0, 1]], [[0, 1], [1, 0]])
    0.5
    """
    a, b = (_unit(each) for each in _both(first, second))
    return float((a @ b.T).mean())


def token_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Return 1 / (1 + d), d the mean Euclidean distance of every token of one to every of the other.

    Examples
    --------
    >>> round(token_distance([[0.0, 0.0]], [[3.0, 4.0]]), 6)
    0.166667
    """
    a, b = _both(first, second)
    apart = np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(2))
    return float(1 / (1 + apart.mean()))


def activation_overlap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    layers: Sequence[int] | None = None,
    binary: bool = True,
) -> float:
    """Return the cosine of which neurons of a frozen model two prompts wake (ON).

    Where paper, code and we differ: the paper and the first release set what is above 0 to 1 and the
    rest to 0; the helper of the later release compares the numbers as they are (``binary=False``).

    Parameters
    ----------
    first, second
        ``(layers, M)`` pre-activations of the feed-forward layers.
    layers
        Which layers count; all if None. The paper finds the last three to tell most.
    binary
        Only whether a neuron is above 0.

    Raises
    ------
    DataError
        Shapes that differ, or a layer that is not there.
    NumericalError
        NaN, infinity, or a prompt that wakes no neuron.

    Examples
    --------
    >>> round(activation_overlap([[1, -0.2, 0.3]], [[0.5, 0.4, -0.1]]), 6)
    0.5
    >>> round(activation_overlap([[1, -0.2, 0.3]], [[0.5, 0.4, -0.1]], binary=False), 6)
    0.56611
    """
    a, b = (checked_table("activation overlap", "activations", each) for each in (first, second))
    if a.shape != b.shape:
        raise DataError(
            f"activation overlap: expected the same layers and neurons, found {a.shape} and {b.shape}",
            hint="Run one model with both prompts",
        )
    if layers is not None:
        odd = [layer for layer in layers if not -len(a) <= layer < len(a)]
        if odd or not layers:
            raise DataError(
                f"activation overlap: expected layers of {len(a)}, found {list(layers)}",
                hint="Count layers from 0, or from -1 for the last",
            )
        a, b = a[list(layers)], b[list(layers)]
    if binary:
        a, b = (a > 0).astype(np.float64), (b > 0).astype(np.float64)
    return _cosine(a.ravel(), b.ravel())


def task_cosine(first: ArrayLike, second: ArrayLike) -> float:
    """Return the cosine of two tasks: mean representations of the same inputs under two prompts (PANDA).

    Where paper, code and we differ: the paper's release has no code for its metric; we read it as the
    mean, over a task's examples, of what the frozen model with the prompt makes of them.

    Parameters
    ----------
    first, second
        ``(N, D)`` of the same N inputs under either prompt.
    """
    a, b = _both(first, second)
    return _cosine(a.mean(0), b.mean(0))


def _both(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    a, b = (checked_table("prompts", "tokens", each) for each in (first, second))
    if a.shape[1] != b.shape[1]:
        raise DataError(
            f"prompts: expected tokens of one width, found {a.shape[1]} and {b.shape[1]}",
            hint="Compare prompts of one model",
        )
    return a, b


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise NumericalError(
            f"prompts: expected tokens of nonzero length, found zeros in row {int(norms.argmin())}",
            hint="Leave out tokens that were never trained",
        )
    found: Floats = rows / norms
    return found


def _cosine(a: Floats, b: Floats) -> float:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    if scale == 0:
        raise NumericalError(
            "prompts: expected something to compare, found a vector of zeros",
            hint="Check that the prompt was trained",
        )
    return float(np.clip(a @ b / scale, -1.0, 1.0))
