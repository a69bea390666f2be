"""Changing what passes through a model while it runs, without touching the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class Pass:
    """What holds for one run of the model.

    Attributes
    ----------
    mask
        ``attention_mask`` of the run where it is ``(B, T)``, else None.
    memo
        For what one edit leaves to another; emptied before every run.
    """

    mask: Tensor | None = None
    memo: dict[Any, Any] = field(default_factory=dict)

    def mask_for(self, hidden: Tensor) -> Tensor | None:
        """Return the mask if ``hidden`` ``(B, T, ...)`` has its tokens."""
        fits = self.mask is not None and hidden.ndim == 3 and hidden.shape[:2] == self.mask.shape
        return self.mask if fits else None


#: (module, input, output, run) -> what the output is to be; the input comes out of ``before`` edits
Change = Callable[[nn.Module, Tensor, Tensor, Pass], Tensor]


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of what comes out of a submodule, or of what goes in.

    Attributes
    ----------
    place
        The submodule's name.
    change
        Called with the submodule, its first input, its output (or that input again) and the run.
    before
        Change the first input instead of the output.
    """

    place: str
    change: Change
    before: bool = False


@contextmanager
def attached(model: nn.Module, edits: Iterable[Edit]) -> Iterator[None]:
    """Have edits in force within the block; edits of one place run in their order.

    Of an output that is a tuple the first item is changed.
    """
    run = Pass()

    def begin(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask = named.get("attention_mask")
        run.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        run.memo.clear()

    handles = [model.register_forward_pre_hook(begin, with_kwargs=True)]
    try:
        handles.extend(_attach(model.get_submodule(edit.place), edit, run) for edit in edits)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(module: nn.Module, edit: Edit, run: Pass) -> Any:
    def before(
        owner: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (edit.change(owner, args[0], args[0], run), *args[1:]), named
        name = next(iter(named))
        return args, {**named, name: edit.change(owner, named[name], named[name], run)}

    def after(owner: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> Any:
        given = args[0] if args else next(iter(named.values()))
        if isinstance(out, tuple):
            return (edit.change(owner, given, out[0], run), *out[1:])
        return edit.change(owner, given, out, run)

    if edit.before:
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after, with_kwargs=True)


def token_mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``(B, D)``: the mean over the tokens of ``(B, T, D)`` that the mask counts; else as it is.

    >>> import torch
    >>> token_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])).item()
    2.0
    """
    if hidden.ndim < 3:
        return hidden
    if mask is None:
        return hidden.flatten(1, -2).mean(1)
    kept = mask[:, :, None].to(hidden.dtype)
    return (hidden * kept).sum(1) / kept.sum(1).clamp(min=1)
