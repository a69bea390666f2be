"""What a stored tensor is called inside the module that transformers builds from it.

Most often the same. Two exceptions: a file written from a model with a task head carries the
prefix of its backbone (``bert.``), and newer transformers rename some architectures' modules while
they keep the file format (ViT). A merge works on stored names, hence so does the `Encoder`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from taskloom.errors import CheckpointError


def stored_to_module(module: Any, stored: Iterable[str], label: str) -> dict[str, str]:
    """Return stored name -> module name for every tensor of the file that the module holds.

    Stored tensors without a place in the module (a position index that is a buffer today, the
    head of another task) are left out; module tensors without a place in the file are an error
    unless tied to one that has one.

    Raises
    ------
    CheckpointError
        A weight of the module that is not in the file under any known name.
    """
    available = set(stored)
    state = module.state_dict(keep_vars=True)
    renamed: dict[str, str] = {}
    found: dict[str, str] = {}
    for name in state:
        prefixed = f"{module.base_model_prefix}.{name}"
        if name in available:
            found[name] = name
        elif prefixed in available:
            found[prefixed] = name
        else:
            renamed = renamed or _renamed(module, list(state))
            if renamed.get(name) in available:
                found[renamed[name]] = name
    placed = {id(state[name]) for name in found.values()}
    for name, tensor in state.items():
        if id(tensor) not in placed:
            raise CheckpointError(
                f"{label}: the encoder's weight {name!r} is not in the file under any known name",
                hint="Save the model again with save_pretrained",
            )
    return found


def _renamed(module: Any, names: list[str]) -> dict[str, str]:
    """Return module name -> stored name by transformers' own table; empty where it has none."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return {}
    marks = {name: torch.tensor([place]) for place, name in enumerate(names)}
    reverted = revert_weight_conversion(module, marks)
    return {names[int(mark)]: stored for stored, mark in reverted.items() if tuple(mark.shape) == (1,)}
