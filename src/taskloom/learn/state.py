"""Where an unfinished training stands, saved so that it can go on as if never interrupted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.errors import IntegrityError
from taskloom.store.atomic import atomic_file

FILE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Evaluation:
    """Validation after ``step`` steps: accuracy in [0, 1] and mean log loss in nats."""

    step: int
    accuracy: float
    loss: float

    def beats(self, other: Evaluation | None) -> bool:
        """Tell whether it is better: higher accuracy, or the same and a lower loss."""
        if other is None:
            return True
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


@dataclass
class State:
    """Everything that a step changes, weights and optimiser aside."""

    step: int = 0
    waited: int = 0  # validations since the best one
    seconds: float = 0.0
    before: Evaluation | None = None  # validation of the untrained encoder
    best: Evaluation | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[Evaluation] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def save_state(
    folder: Path,
    key: str,
    state: State,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write weights, optimiser moments and `State` to ``folder``, atomically.

    Raises
    ------
    OutputError
        The disk is full or the folder cannot be written; the state saved before survives.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"weight/{name}"] = parameter.detach()
        for moment in _MOMENTS:
            if moment in optimizer.state[parameter]:
                tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    tensors |= {f"best/{name}": tensor for name, tensor in state.best_weights.items()}
    metadata = {"key": key, "state": json.dumps(_plain(state))}
    with atomic_file(folder / FILE) as temp:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temp, metadata=metadata)


def load_state(
    folder: Path,
    key: str,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> State | None:
    """Restore what `save_state` wrote; None when there is nothing saved.

    Raises
    ------
    IntegrityError
        The file is damaged, or belongs to another training.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                raise KeyError("key")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = _from_plain(json.loads(metadata["state"]))
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"weight/{name}"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IntegrityError(
            f"{path}: expected the saved state of this training, but it is damaged: {error}",
            hint=f"Remove {folder} to start from the beginning",
        ) from error
    state.best_weights = _under(tensors, "best")
    for name, parameter in parameters.items():
        moments = {m: tensors[f"{m}/{name}"] for m in _MOMENTS if f"{m}/{name}" in tensors}
        if moments:
            step = torch.tensor(float(state.step))
            optimizer.state[parameter] = {"step": step, **moments}
    return state


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}/"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}/")
    }


def _plain(state: State) -> dict[str, Any]:
    return {
        "step": state.step,
        "waited": state.waited,
        "seconds": state.seconds,
        "before": state.before.__dict__ if state.before else None,
        "best": state.best.__dict__ if state.best else None,
        "history": [each.__dict__ for each in state.history],
        "losses": state.losses,
    }


def _from_plain(table: dict[str, Any]) -> State:
    return State(
        step=table["step"],
        waited=table["waited"],
        seconds=table["seconds"],
        before=Evaluation(**table["before"]) if table["before"] else None,
        best=Evaluation(**table["best"]) if table["best"] else None,
        history=[Evaluation(**each) for each in table["history"]],
        losses=table["losses"],
    )
