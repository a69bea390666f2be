"""Know2Vec: the models of a zoo that know what a data set asks for, told by their answers alone."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats
from taskloom.choose.set_choice import SetChoice, checked_size, checked_table
from taskloom.errors import DataError, NumericalError
from taskloom.registry import register


@register(
    "set",
    paper="Shang et al., Know2Vec, AAAI 2025 (2412.16251)",
    partly={
        "Know2Vec": "models and data sets share a space of decisions and the best models for a query "
        "are returned; accuracy on held-out queries of real data beside baselines is not measured"
    },
)
def know2vec(
    model_vectors: ArrayLike,
    model_queries: ArrayLike,
    query: ArrayLike,
    *,
    size: Annotated[int, Field(ge=1)] = 4,
    aligned: bool = True,
    penalty: Annotated[float, Field(gt=0)] = 0.1,
) -> SetChoice:
    """Rank models by the cosine of their decisions with those that the query's data set asks for.

    Vectors are of `taskloom.choose.knowledge`. The pairs of a model and the data set that it was trained
    on say how a data set's vector looks from a model: ridge regression takes the query there.

    Where paper, code and we differ: the released code (vimpire00/know2vec1) searches inputs at each
    model's borders, encodes them by an LSTM, the query's image features by a graph network, and learns
    both by a loss on triplets, over hundreds of models. Here all are asked the same probe inputs, the
    encoding is fixed, and the alignment linear, which a handful of pairs can tell.

    Parameters
    ----------
    model_vectors
        ``(K, V)`` of the models' answers.
    model_queries
        ``(K, V)`` of the data sets that they were trained on, in the same order.
    query
        ``(V,)`` of the query's data set.
    size
        How many models.
    aligned
        Take the query to the models' side by the pairs; else compare it as it is.
    penalty
        Of the ridge regression, in units of the mean squared length of the centred queries.

    Raises
    ------
    DataError
        Shapes that do not fit each other, or a size that does not.
    NumericalError
        NaN, infinity, or models that all decide alike.

    Examples
    --------
    >>> models = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    >>> know2vec(models, models, [0.1, 0.9, 0.2], size=1).chosen
    (1,)
    """
    models = checked_table("know2vec", "model_vectors", model_vectors)
    queries = checked_table("know2vec", "model_queries", model_queries)
    asked = checked_table("know2vec", "query", np.asarray(query, dtype=np.float64)[None])[0]
    if models.shape != queries.shape or asked.shape != models.shape[1:]:
        raise DataError(
            f"know2vec: expected vectors of models and of their data sets (K, V) and a query (V,), "
            f"found {models.shape}, {queries.shape} and {asked.shape}",
            hint="Ask all of them the same probe inputs",
        )
    checked_size("know2vec", size, len(models))
    middle = models.mean(0)
    apart = models - middle
    if len(models) > 1 and not np.linalg.norm(apart, axis=1).all():
        raise NumericalError(
            "know2vec: expected models that decide differently, found one equal to their mean",
            hint="Give more probe inputs, or leave out duplicated models",
        )
    wanted = _taken(queries, apart, asked, penalty) if aligned else asked - middle
    scale = np.linalg.norm(apart, axis=1) * np.linalg.norm(wanted)
    values = np.divide(apart @ wanted, scale, out=np.zeros(len(models)), where=scale > 0)
    chosen = tuple(int(k) for k in np.argsort(-values, kind="stable")[:size])
    reasons = tuple(f"cosine {value:.3f} with what is asked for" for value in values)
    return SetChoice(chosen, tuple(float(values[k]) for k in chosen), (), None, reasons)


def _taken(queries: Floats, models: Floats, asked: Floats, penalty: float) -> Floats:
    """Return the query as the models' side has it: ridge regression in its dual form."""
    centre = queries.mean(0)
    rows = queries - centre
    gram = rows @ rows.T
    gram.flat[:: len(gram) + 1] += penalty * max(float(np.trace(gram)) / len(gram), 1e-12)
    found: Floats = models.T @ np.linalg.solve(gram, rows @ (asked - centre))
    return found
