"""What a training method is: which parameters move, and how the result is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import nn

from taskloom.models.encoder import Encoder

#: adds files of its own (heads, provenance) to a directory before it is put in place
Extra = Callable[[Path], None]


class Adaptation(Protocol):
    """An encoder prepared for training; made by a function registered under ``"train"``.

    The function takes an `Encoder` of its own, may change its module in place, and takes those
    fields of `TrainOptions` that it names as keyword-only parameters.
    """

    @property
    def encoder(self) -> Encoder:
        """The encoder whose ``pooled`` is differentiable in the parameters."""
        ...

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by a name that is stable between runs."""
        ...

    @property
    def learning_rate(self) -> float:
        """Peak learning rate when the options name none."""
        ...

    def write(self, target: Path, extra: Extra) -> None:
        """Write the directory of the trained expert, whole or not at all."""
        ...


def write_provenance(folder: Path, provenance: dict[str, object]) -> None:
    """Write ``taskloom.json``: where the weights come from."""
    text = json.dumps(provenance, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    (folder / "taskloom.json").write_text(text, encoding="utf-8")
