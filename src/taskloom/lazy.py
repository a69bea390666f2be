"""Torch, imported when it is first used: importing it takes longer than many a merge.

A module says ``from taskloom.lazy import Tensor, torch`` and uses both as usual. Type checkers see
the real ones. ``Tensor`` and ``Module`` serve in annotations and in ``isinstance``, where nothing is
an instance before somebody imported torch.

>>> isinstance(1.0, Tensor)
False
>>> torch.zeros(2).tolist()
[0.0, 0.0]
>>> isinstance(torch.zeros(2), Tensor)
True
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor
    from torch.nn import Module as Module
else:

    class _Torch:
        """The package torch, as an object that imports it on the first attribute."""

        def __getattr__(self, name: str) -> Any:
            import torch as real

            value = getattr(real, name)
            setattr(self, name, value)
            return value

    class _StandIn(type):
        """Type of classes that answer ``isinstance`` for a class of torch."""

        def _real(cls) -> Any:
            found = sys.modules.get("torch")
            for part in cls.path:
                found = getattr(found, part, None)
            return found

        def __instancecheck__(cls, value: object) -> bool:
            real = cls._real()
            return real is not None and isinstance(value, real)

        def __subclasscheck__(cls, other: type) -> bool:
            real = cls._real()
            return other is cls or (real is not None and issubclass(other, real))

    class Tensor(metaclass=_StandIn):
        """Stands in for ``torch.Tensor``."""

        path = ("Tensor",)

    class Module(metaclass=_StandIn):
        """Stands in for ``torch.nn.Module``."""

        path = ("nn", "Module")

    torch = _Torch()

__all__ = ["Module", "Tensor", "torch"]
