"""Full fine-tuning: every weight of the encoder moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from taskloom.errors import PlanError
from taskloom.learn.adaptation import Adaptation, Extra
from taskloom.models.encoder import Encoder
from taskloom.registry import register
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.writer import write_model


@register("train", paper="Kumar et al., ICLR 2022 (linear probe, then fine-tune)")
def full(encoder: Encoder, *, freeze: tuple[str, ...] = ()) -> Adaptation:
    """Fine-tune all weights; the result is a directory like the base's.

    Weights that do not reach the features, such as a pooler's, stay as they are. Default peak
    learning rate 1e-4.

    Parameters
    ----------
    encoder
        Its module is trained in place.
    freeze
        Stored names starting with one of these stay as they are.

    Raises
    ------
    PlanError
        A prefix that no weight has, or nothing left to train.
    """
    own = dict(encoder.module.named_parameters())
    stored = {encoder.names[name]: name for name in encoder.names}
    for prefix in freeze:
        if not any(name.startswith(prefix) for name in encoder.names):
            raise PlanError(
                f"training: option 'freeze' names {prefix!r}, but no weight of "
                f"{encoder.directory} starts with it"
            )
    moving: dict[str, nn.Parameter] = {}
    for inside, parameter in own.items():
        name = stored.get(inside, inside)
        frozen = "pooler." in name or name.startswith(freeze)
        parameter.requires_grad_(not frozen)
        if not frozen:
            moving[name] = parameter
    if not moving:
        raise PlanError(f"training: option 'freeze' leaves nothing to train, found {freeze}")
    return FullTuning(encoder, moving)


@dataclass(frozen=True)
class FullTuning:
    """The encoder with the parameters that move, by stored name."""

    encoder: Encoder
    parameters: dict[str, nn.Parameter]
    learning_rate: float = 1e-4

    def write(self, target: Path, extra: Extra) -> None:
        """Write a model directory: all stored tensors in their stored dtypes, base's other files."""
        source = self.encoder.directory
        write_model(
            target,
            infos=SafetensorsCheckpoint(source).tensors,
            tensors=self._tensors(),
            template=source,
            overwrite=True,
            extra=extra,
        )

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        stored = SafetensorsCheckpoint(self.encoder.directory).tensors
        for name, tensor in self.encoder.state_dict().items():
            yield name, tensor.detach().to(stored[name].dtype)
