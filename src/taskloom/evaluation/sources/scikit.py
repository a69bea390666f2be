"""Rows of the data sets that come with scikit-learn."""

from __future__ import annotations

from typing import Literal

import numpy as np

from taskloom.errors import MissingExtra
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.registry import register


@register("source", name="sklearn")
def built_in(
    context: SourceContext, /, *, dataset: Literal["digits", "wine", "breast_cancer", "iris"]
) -> list[Row]:
    """Read a data set that is installed with scikit-learn; needs no download.

    Columns: ``label`` (name of the class) and ``image`` (8, 8) float32 in [0, 1] for ``digits``, or
    ``vector`` (F,) float32 for the others.

    Raises
    ------
    MissingExtra
        scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise MissingExtra("scikit-learn", "run", purpose=f"task {context.task!r}") from None
    loaded = getattr(datasets, f"load_{dataset}")()
    if dataset == "digits":
        name, values = "image", np.asarray(loaded.images, dtype=np.float32) / 16
    else:
        name, values = "vector", np.asarray(loaded.data, dtype=np.float32)
    names = [str(each) for each in loaded.target_names]
    return [{name: v, "label": names[t]} for v, t in zip(values, loaded.target, strict=True)]
