"""Malformed files of every kind, and what must hold for each: opened, or refused in one sentence.

Used by the tests and by ``benchmarks/fuzz_headers.py``. A case is (kind, folder builder); `attempt`
opens it under watch: every file that Python opens meanwhile must lie in the case's folder, memory and
time are bounded, and the only exception is a `CheckpointError`.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import struct
from pathlib import Path
from unittest import mock

import torch
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from taskloom.errors import CheckpointError
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.header import DTYPES
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.open import open_checkpoint
from taskloom.store.safetensors_dir import INDEX, WEIGHTS
from taskloom.store.tokenizer import read_chat_template, read_vocabulary

#: most bytes that opening a file of a few hundred bytes may take on top of what the process has
MEMORY = 512 << 20
SECONDS = 10

# ---- the watch


@contextlib.contextmanager
def watching(folder):
    """Within the block, the files and folders outside of ``folder`` that Python code opens are noted.

    By standing in front of the functions, not by an audit hook: a hook cannot be taken away again, and
    before Python 3.12 threads that start while one is installed may fail under coverage.
    """
    home, strays = Path(os.path.realpath(folder)), []

    def noting(function):
        def noted(path=".", *arguments, **options):
            if isinstance(path, str | bytes | os.PathLike):
                real = Path(os.path.realpath(os.fsdecode(path)))
                if not real.is_relative_to(home):
                    strays.append(str(real))
            return function(path, *arguments, **options)

        return noted

    with contextlib.ExitStack() as stack:
        for module, name in (
            (builtins, "open"),
            (io, "open"),
            (os, "open"),
            (os, "listdir"),
            (os, "scandir"),
        ):
            stack.enter_context(mock.patch.object(module, name, noting(getattr(module, name))))
        yield strays


@contextlib.contextmanager
def bounded_memory(extra=MEMORY):
    """Within the block the address space may grow by ``extra`` bytes; more is an error."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class HangError(BaseException):
    """A case took longer than it may."""


def _alarm(number, frame):
    raise HangError


@contextlib.contextmanager
def bounded_time(seconds=SECONDS):
    """Within the block every case may take ``seconds``."""
    before = signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ---- what is drawn

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
counts = st.integers(0, 12) | st.sampled_from([-1, 2**31, 2**63, 2**64, 10**30, 1.0, True, None, "4"])
good = st.builds(
    lambda start, rows: {"dtype": "F32", "shape": [rows], "data_offsets": [start, start + 4 * rows]},
    st.sampled_from([0, 4, 8]),
    st.integers(0, 3),
)
odd = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", "f32", ""]) | json_values,
        "shape": st.lists(counts, max_size=4) | json_values,
        "data_offsets": st.lists(counts, min_size=1, max_size=3) | json_values,
    },
    optional={"more": json_values},
)
tables = st.dictionaries(
    st.text(max_size=3) | st.just("__metadata__"), good | odd | json_values, max_size=3
)
lengths = st.none() | st.integers(0, 2**64 - 1) | st.integers(0, 300)


@st.composite
def texts(draw, values):
    """JSON of a value, now and then damaged, doubled, nested or cut."""
    text = json.dumps(draw(values), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    damage = draw(st.integers(0, 9))
    if damage == 0:
        return text[: draw(st.integers(0, len(text)))]
    if damage == 1:
        place = draw(st.integers(0, len(text)))
        return text[:place] + draw(st.binary(max_size=4)) + text[place:]
    if damage == 2:
        return b'{"a":' * draw(st.sampled_from([10, 2000])) + text
    if damage == 3:
        return text.replace(b"{", b'{"w":1,"w":2,', 1)
    if damage == 4:
        return text.replace(b"1", b"9" * draw(st.sampled_from([30, 5000])))
    return text


@st.composite
def headers(draw):
    """A whole safetensors file with an arbitrary header."""
    raw, length = draw(texts(tables)), draw(lengths)
    prefix = struct.pack("<Q", len(raw) if length is None else length)
    return (
        prefix
        + raw
        + draw(st.sampled_from([b"", bytes(4), bytes(8), bytes(12)]) | st.binary(max_size=16))
    )


_GOOD = save({"a": torch.ones(2, 2), "b": torch.zeros(3, dtype=torch.int8)})


@st.composite
def damaged(draw):
    """A good file with bytes changed, cut, put in or taken out."""
    raw = bytearray(_GOOD)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(raw) - 1))
        kind = draw(st.integers(0, 2))
        if kind == 0:
            raw[place] = draw(st.integers(0, 255))
        elif kind == 1:
            raw[place:place] = draw(st.binary(max_size=3))
        elif len(raw) > 20:
            del raw[place : place + draw(st.integers(1, 9))]
    return bytes(raw)


#: where an index or a configuration may try to lead
PLACES = [
    "one.safetensors",
    "two.safetensors",
    "sub/three.safetensors",
    "./one.safetensors",
    "../secret/model.safetensors",
    "sub/../../secret/model.safetensors",
    "/etc/passwd",
    "/dev/zero",
    "/proc/self/mem",
    "link.safetensors",
    "linked/model.safetensors",
    "loop.safetensors",
    "pipe.safetensors",
    "sub",
    "",
    ".",
    "..",
    "a\0b",
    "C:\\x",
    "\\\\host\\share",
    "x" * 300,
    "~/x",
    "file:///etc/passwd",
    "\ud800",
]
shards = st.sampled_from(PLACES) | st.text(max_size=6) | json_values
places = st.dictionaries(st.sampled_from("abc") | st.text(max_size=3), shards, max_size=4)
indexes = st.fixed_dictionaries(
    {"weight_map": st.just({"a": "one.safetensors"}) | places}, optional={"metadata": json_values}
)

numbers = st.integers(-2, 8) | st.sampled_from(
    [10**400, 2**63, 1e308, float("nan"), float("inf"), True, "4", []]
)
patterns = st.dictionaries(
    st.sampled_from(
        ["proj", ".*", "(a+)+$", r"((.|\w)*)*!", "[", "(", "p{1,9999999}", r"(\w*\w*\w*\w*)*x", "\\1"]
    )
    | st.text(max_size=6),
    numbers,
    max_size=2,
)
configs = st.fixed_dictionaries(
    {"peft_type": st.just("LORA"), "r": numbers | st.just(2), "lora_alpha": numbers | st.just(2)},
    optional={
        "rank_pattern": patterns | json_values,
        "alpha_pattern": patterns | json_values,
        "target_modules": json_values,
        "use_rslora": json_values,
        "fan_in_fan_out": st.booleans(),
        "init_lora_weights": json_values,
        "modules_to_save": json_values,
        "bias": json_values,
        "base_model_name_or_path": st.sampled_from(PLACES),
        "auto_mapping": json_values,
    },
)
_MODULE = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.proj"
modules = st.sampled_from([_MODULE, "proj", "other", "", ".", "base_model.model.proj"])
factors = st.lists(
    st.tuples(
        modules,
        st.sampled_from(
            ["lora_A.weight", "lora_B.weight", "lora_A.x.weight", "weight", "lora_magnitude_vector", ""]
        ),
        st.sampled_from([(2, 3), (4, 2), (3, 2), (0, 3), (2,), (), (4, 3)]),
    ),
    max_size=4,
)

tokenizers = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {
                "vocab": st.dictionaries(st.text(max_size=3), st.integers(0, 6) | counts, max_size=4)
                | st.lists(st.tuples(st.text(max_size=3), st.floats()) | json_values, max_size=3)
            }
        )
        | json_values
    },
    optional={
        "added_tokens": st.lists(
            st.fixed_dictionaries({"id": counts, "content": st.text(max_size=3)}) | json_values,
            max_size=2,
        )
    },
)


# ---- how a case is written and opened


def _model(folder, data):
    (folder / WEIGHTS).write_bytes(data)


def _index(folder, text):
    (folder / INDEX).write_bytes(text)


def _adapter(folder, drawn):
    text, parts = drawn
    (folder / "adapter_config.json").write_bytes(text)
    if parts is None:
        held = {f"base_model.model.{_MODULE}.lora_{s}.weight": torch.ones(shape) for s, shape in _PAIR}
    else:
        held = {f"base_model.model.{m}.{end}": torch.ones(shape) for m, end, shape in parts}
    save_file(held, folder / "adapter_model.safetensors")


_PAIR = (("A", (2, 3)), ("B", (4, 2)))


def _tokenizer(folder, text):
    (folder / "tokenizer.json").write_bytes(text)
    (folder / "tokenizer_config.json").write_bytes(text)


def _read_all(checkpoint):
    for name, info in checkpoint.tensors.items():
        value = checkpoint.read(name)
        assert (tuple(value.shape), value.dtype) == (info.shape, info.dtype)


def _open_model(folder, base):
    _read_all(open_checkpoint(folder))


def _open_adapter(folder, base):
    _read_all(AdapterCheckpoint(folder, base))


def _open_tokenizer(folder, base):
    read_vocabulary(folder)
    read_chat_template(folder)


#: kind -> (strategy, writer, opener)
KINDS = {
    "header": (headers(), _model, _open_model),
    "damaged file": (damaged(), _model, _open_model),
    "index": (texts(indexes), _index, _open_model),
    "adapter": (
        st.tuples(texts(configs), st.none() | factors),
        _adapter,
        _open_adapter,
    ),
    "tokenizer": (texts(tokenizers), _tokenizer, _open_tokenizer),
}


class Ground:
    """A folder in which cases of one kind are written and opened, one after the other."""

    def __init__(self, root: Path, kind: str):
        self.strategy, self._write, self._open = KINDS[kind]
        self.folder = root / "case"
        self._base = MemoryCheckpoint({f"{_MODULE}.weight": torch.zeros(4, 3)})
        shutil.rmtree(root, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if kind == "index":
            self._furnish(root)

    def _furnish(self, root):
        """Real shards, and every way out of the folder."""
        secret = root / "secret"
        secret.mkdir()
        save_file({"a": torch.ones(2)}, secret / "model.safetensors")
        (self.folder / "sub").mkdir()
        for name, file in {"a": "one", "b": "two", "c": "sub/three"}.items():
            save_file({name: torch.ones(2)}, self.folder / f"{file}.safetensors")
        (self.folder / "link.safetensors").symlink_to(secret / "model.safetensors")
        (self.folder / "linked").symlink_to(secret)
        (self.folder / "loop.safetensors").symlink_to(self.folder / "loop.safetensors")
        os.mkfifo(self.folder / "pipe.safetensors")

    def attempt(self, drawn) -> str:
        """Write and open one case; return ``opened`` or the start of the refusal."""
        self._write(self.folder, drawn)
        outcome = "opened"
        with watching(self.folder) as strays, bounded_time():
            try:
                self._open(self.folder, self._base)
            except CheckpointError as error:
                outcome = "refused"
                message, hint = str(error), error.hint
        if outcome == "refused":
            assert hint
            assert str(self.folder) in message
        assert not strays, f"opened outside of the folder: {strays}"
        return outcome
