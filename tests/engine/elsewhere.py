"""A device that is not there: tensors that refuse to meet those of the CPU, and streams that do nothing
until they must.

What runs on it mixes no devices, reads nothing behind a stream's back, and asks no tensor of a device
for its memory. Values are computed on the CPU, so the bytes must be the CPU's.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

_ITER = torch.Tensor.__iter__
_DEVICE = torch.Tensor.device


class Far(torch.Tensor):
    """A tensor of the device."""


class Elsewhere(TorchFunctionMode):
    """Within it, tensors of ``device`` are `Far`."""

    def __init__(self, device):
        super().__init__()
        self.device = torch.device(device)
        self.copied = {"there": 0, "back": 0}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = tree_leaves((args, kwargs))
        far = any(isinstance(each, Far) for each in given)
        with torch._C.DisableTorchFunctionSubclass():
            if far and getattr(func, "__self__", None) is _DEVICE:
                return self.device
            name = getattr(func, "__name__", "")
            if far and name in ("numpy", "__array__", "untyped_storage", "data_ptr"):
                raise TypeError(f"{name} of a tensor on {self.device}")
            if name == "copy_":
                return self._copy(*args, **kwargs)
            near = [each for each in given if type(each) is torch.Tensor and each.ndim]
            if far and near:
                raise RuntimeError(f"{name}: tensors on {self.device} and on the CPU")
            place, args, kwargs = self._place(func, args, kwargs)
            args, kwargs = tree_map(_near, (args, kwargs))
            if kwargs.get("pin_memory"):
                assert place == "cpu"
                kwargs.pop("pin_memory")
            found = list(args[0].unbind(0)) if func is _ITER else func(*args, **kwargs)
            if place == "far" or (far and place is None):
                found = tree_map(_far, found)
            return iter(found) if func is _ITER else found

    def _place(self, func, args, kwargs):
        """Where the result is asked to be, and the arguments without saying so."""
        if func is torch.Tensor.cpu:
            return "cpu", args, kwargs
        wanted = kwargs.get("device")
        if func is torch.Tensor.to:
            wanted = wanted or next((a for a in args if isinstance(a, (torch.device, str))), None)
        if wanted is None:
            return None, args, kwargs
        cpu = torch.device("cpu")
        args = tuple(cpu if a is wanted else a for a in args)
        kwargs = {k: cpu if k == "device" else v for k, v in kwargs.items()}
        return ("far" if torch.device(wanted).type == self.device.type else "cpu"), args, kwargs

    def _copy(self, into, source, non_blocking=False):
        if isinstance(into, Far) != isinstance(source, Far):
            self.copied["there" if isinstance(into, Far) else "back"] += source.numel()
            assert into.dtype == source.dtype, "a copy that converts cannot run beside the steps"
        pair = _near(into), _near(source)
        if non_blocking and Stream.current is not None:
            Stream.current.waiting.append(pair)
        else:
            pair[0].copy_(pair[1])
        return into


def _near(value):
    return value.as_subclass(torch.Tensor) if isinstance(value, Far) else value


def _far(value):
    return value.as_subclass(Far) if isinstance(value, torch.Tensor) else value


class Stream:
    """Copies wait until somebody waits for them."""

    current = None

    def __init__(self, device=None):
        self.waiting = []

    def flush(self):
        Event(self).synchronize()

    def wait_stream(self, other):
        other.flush()

    def record_event(self):
        return Event(self)

    def synchronize(self):
        self.flush()


class Event:
    """A place in a stream; those behind it are still waiting."""

    def __init__(self, stream):
        self.stream, self.pairs = stream, list(stream.waiting)

    def synchronize(self):
        for into, source in self.pairs:
            self.copy(into, source)
        self.stream.waiting = [p for p in self.stream.waiting if not any(p is q for q in self.pairs)]

    def copy(self, into, source):
        with torch.inference_mode():
            into.copy_(source)


@contextlib.contextmanager
def stream(chosen):
    """Stand in for ``torch.cuda.stream``."""
    before, Stream.current = Stream.current, chosen
    try:
        yield
    finally:
        Stream.current = before
