"""Rankings by soft prompts: what peft's prompt tuning leaves, compared with the target's."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from taskloom.choose.prompts import (
    activation_overlap,
    mean_cosine,
    task_cosine,
    token_cosine,
    token_distance,
)
from taskloom.choose.rank import Ranked, Ranking
from taskloom.errors import CheckpointError, DataError, PlanError
from taskloom.evaluation.data import Inputs
from taskloom.models.encoder import Encoder
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

Array = NDArray[Any]
#: where peft stores a prompt, and under which name
FILE, KEY = "adapter_model.safetensors", "prompt_embeddings"
#: scores of prompts alone
_PLAIN = {
    "prompt_mean_cosine": mean_cosine,
    "prompt_token_cosine": token_cosine,
    "prompt_distance": token_distance,
}
#: every score of this file
PROMPTED = (*_PLAIN, "activation_overlap", "panda")
#: last part of the names under which models have the first layer of a feed-forward block
_FIRST = ("intermediate.dense", "fc1", "lin1", "wi", "wi_0", "up_proj", "c_fc", "dense_h_to_4h")
#: texts at a time
_BATCH = 32


@dataclass(frozen=True)
class Prompts:
    """Soft prompts of sources, by name, and of the target: directories or files."""

    sources: Mapping[str, str | os.PathLike[str]] | None = None
    target: str | os.PathLike[str] | None = None

    def check(self, scores: Sequence[str]) -> None:
        """Refuse a score without prompts, and prompts that no score looks at.

        Raises
        ------
        PlanError
            The two do not go together.
        """
        asked = [score for score in scores if score in PROMPTED]
        given = (bool(self.sources), self.target is not None)
        if any(given) != bool(asked) or any(given) != all(given):
            named = asked[0] if asked else ", ".join(PROMPTED)
            raise PlanError(
                f"the score {named} and soft prompts of the sources and of the target go together",
                hint="Tune prompts with peft; give all of them and a score, or none",
            )

    def rank(self, score: str, encoder: Encoder, inputs: Inputs) -> Ranking:
        """Rank the sources whose prompts were given.

        Parameters
        ----------
        inputs
            Of the target, for ``panda``.

        Raises
        ------
        CheckpointError
            No prompt where one is said to be, or one of another width than the model's.
        DataError, NumericalError
            What the measure refuses.
        """
        assert self.sources is not None
        assert self.target is not None
        begun = time.perf_counter()
        target = read_prompt(self.target)
        prompts = {name: read_prompt(path) for name, path in self.sources.items()}
        if score in _PLAIN:
            values = {name: _PLAIN[score](each, target) for name, each in prompts.items()}
        elif score == "activation_overlap":
            wanted = activations(encoder, target)
            values = {n: activation_overlap(activations(encoder, p), wanted) for n, p in prompts.items()}
        else:
            wanted = represent(encoder, target, inputs)
            values = {n: task_cosine(represent(encoder, p, inputs), wanted) for n, p in prompts.items()}
        order = sorted(values.items(), key=lambda pair: -pair[1])
        entries = tuple(Ranked(name, value, place) for place, (name, value) in enumerate(order, start=1))
        return Ranking(score, entries, time.perf_counter() - begun)


def read_prompt(path: str | os.PathLike[str]) -> Array:
    """Return the tokens ``(L, D)`` of a soft prompt that peft's prompt tuning saved.

    Raises
    ------
    CheckpointError
        No such file, or none of a prompt.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise CheckpointError(
            f"{path}: expected a soft prompt, found no {FILE}",
            hint="Give the directory that peft's prompt tuning saved",
        )
    stored = SafetensorsCheckpoint(file)
    info = stored.tensors.get(KEY)
    if info is None or len(info.shape) != 2:
        raise CheckpointError(
            f"{file}: expected a tensor {KEY!r} of two axes, found {', '.join(stored.tensors)}",
            hint="Give the directory that peft's prompt tuning saved",
        )
    return np.asarray(stored.read(KEY).to(torch.float32).numpy())


def activations(encoder: Encoder, prompt: Array) -> Array:
    """Return ``(layers, M)``: what a model's feed-forward layers hold before their nonlinearity.

    At the first token after the prompt, of an empty text: of the model's start token, which stands for
    the mask token of the paper, since an encoder need not have one.

    Raises
    ------
    DataError
        A model without feed-forward layers that are known by name, or one of images.
    """
    places = [
        module
        for name, module in encoder.module.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(_FIRST)
    ]
    if not places:
        raise DataError(
            f"{encoder.directory}: expected feed-forward layers called {', '.join(_FIRST)}, found none",
            hint="Use panda, which looks at the output",
        )
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(output[0, len(prompt)].detach())

    hooks = [place.register_forward_hook(keep) for place in places]
    try:
        _run(encoder, prompt, [""])
    finally:
        for hook in hooks:
            hook.remove()
    return np.asarray(torch.stack(seen).to(torch.float64).numpy())


def represent(encoder: Encoder, prompt: Array, inputs: Inputs) -> Array:
    """Return ``(N, D)``: the mean last hidden vector of each text's own tokens after a prompt."""
    if not isinstance(inputs, list):
        raise DataError(
            "panda: expected texts, found arrays", hint="Soft prompts are for models of texts"
        )
    found = []
    for start in range(0, len(inputs), _BATCH):
        hidden, mask = _run(encoder, prompt, inputs[start : start + _BATCH])
        own = hidden[:, len(prompt) :]
        found.append((own * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    return np.asarray(torch.cat(found).to(torch.float64).numpy())


def _run(encoder: Encoder, prompt: Array, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return last hidden vectors ``(B, L + T, D)`` of prompted texts, and their own mask ``(B, T)``."""
    if encoder.modality != "text":
        raise DataError(
            f"{encoder.directory}: expected a model of texts, found one of images",
            hint="Soft prompts are for models of texts",
        )
    module: Any = encoder.module
    batch = encoder.batch(texts)
    words = module.get_input_embeddings()(batch["input_ids"])
    if words.shape[2] != prompt.shape[1]:
        raise CheckpointError(
            f"the prompt has tokens of {prompt.shape[1]} numbers, and {encoder.directory} of "
            f"{words.shape[2]}",
            hint="Use the base that the prompt was tuned on",
        )
    room = getattr(module.config, "max_position_embeddings", None)
    if room is not None and words.shape[1] + len(prompt) > room:
        raise DataError(
            f"a prompt of {len(prompt)} tokens and texts of {words.shape[1]} do not fit into the "
            f"{room} positions of {encoder.directory}",
            hint="Use shorter texts",
        )
    front = torch.from_numpy(prompt).to(words.dtype).expand(len(texts), *prompt.shape)
    mask = batch["attention_mask"]
    ahead = torch.ones(len(texts), len(prompt), dtype=mask.dtype)
    with torch.inference_mode():
        out = module(
            inputs_embeds=torch.cat([front, words], 1), attention_mask=torch.cat([ahead, mask], 1)
        )
    return out.last_hidden_state, mask
