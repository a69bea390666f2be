"""Writing a LoRA adapter that peft loads, one matrix at a time."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taskloom.errors import OutputError
from taskloom.store.adapter_config import CONFIG
from taskloom.store.adapter_layout import Layout
from taskloom.store.atomic import atomic_directory, write_json
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.writer import SafetensorsWriter

WEIGHTS = "adapter_model.safetensors"
_PARTS = "parts"


class AdapterWriter:
    """Takes low-rank changes and whole tensors as they come; see `write_adapter`.

    Every alpha equals its rank, so that peft's scaling is 1 and the product of the factors is the
    change itself.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, TensorInfo],
        *,
        transposed: bool,
        wrapping: tuple[str, str],
        base_name: str | None,
    ) -> None:
        self._folder = folder
        self._tensors = tensors
        self._transposed = transposed
        self._wrapping = wrapping
        self._base_name = base_name
        self._infos: dict[str, TensorInfo] = {}
        self._ranks: dict[str, int] = {}
        self._file: SafetensorsWriter | None = None

    @property
    def adapted(self) -> tuple[str, ...]:
        """Modules with a low-rank change so far, as the base calls them."""
        return tuple(self._ranks)

    def announce(
        self,
        ranks: Mapping[str, int],
        whole: Sequence[str],
        dtype: torch.dtype,
        embeddings: Collection[str],
    ) -> None:
        """Say what will come, so that it is written to its place at once; from any thread then.

        Parameters
        ----------
        ranks
            Tensors with a low-rank change, and their ranks.
        whole
            Tensors that replace the base's, in its dtypes.
        dtype
            Of the factors.
        embeddings
            Those of ``ranks`` that belong to an ``nn.Embedding``.
        """
        infos: dict[str, TensorInfo] = {}
        for name, rank in ranks.items():
            rows, columns = self._tensors[name].shape
            a, b = self._keys(name, embedding=name in embeddings)
            swapped = name in embeddings or self._transposed
            shapes = ((rank, rows), (columns, rank)) if swapped else ((rank, columns), (rows, rank))
            infos |= {key: TensorInfo(shape, dtype) for key, shape in zip((a, b), shapes, strict=True)}
            self._ranks[name.rpartition(".")[0]] = rank
        infos |= {self._whole_key(name): self._tensors[name] for name in whole}
        self._file = SafetensorsWriter(self._folder / WEIGHTS, infos, {"format": "pt"})

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def low_rank(self, name: str, left: Tensor, right: Tensor, *, embedding: bool = False) -> None:
        """Store tensor ``name`` = base's + left @ right.

        Parameters
        ----------
        name
            A 2-d tensor of the base, ``<module>.weight``.
        left, right
            ``(rows, rank)`` and ``(rank, columns)``, in the orientation of the base's tensor.
        embedding
            The tensor belongs to an ``nn.Embedding``.

        Raises
        ------
        OutputError
            Factors that do not make a matrix of the tensor's shape, or a name given twice.
        """
        module, _, leaf = name.rpartition(".")
        rank = left.shape[-1]
        shapes = (left.shape[0], *right.shape)
        if (
            leaf != "weight"
            or rank < 1
            or shapes != (self._tensors[name].shape[0], rank, right.shape[1])
        ):
            raise OutputError(
                f"tensor {name!r}: factors {list(left.shape)} and {list(right.shape)} do not make "
                f"its change",
                hint="Give (rows, rank) and (rank, columns) of a module's weight",
            )
        a, b = (left.T, right.T) if embedding or self._transposed else (right, left)
        for key, factor in zip(self._keys(name, embedding=embedding), (a, b), strict=True):
            self._put(key, factor)
        self._ranks[module] = rank

    def whole(self, name: str, tensor: Tensor) -> None:
        """Store a tensor that replaces the base's: of a module saved whole, or a bias.

        Biases of adapted modules are given after the modules' low-rank changes.
        """
        self._put(self._whole_key(name), tensor)

    def finish(self, layout: Layout) -> None:
        """Join the parts, if what came was not announced, and write the configuration."""
        if self._file is None:
            self._join()
        else:
            with self._file:
                pass
        write_json(self._folder / CONFIG, self._config(layout))

    def _join(self) -> None:
        parts = {
            key: self._folder / _PARTS / f"{number}.safetensors"
            for number, key in enumerate(self._infos)
        }
        with SafetensorsWriter(self._folder / WEIGHTS, self._infos, {"format": "pt"}) as writer:
            for key, part in parts.items():
                writer.write(key, SafetensorsCheckpoint(part).read(key))
                part.unlink()
        shutil.rmtree(self._folder / _PARTS)

    def _keys(self, name: str, *, embedding: bool) -> tuple[str, str]:
        """Return what the factors A and B of a tensor are called."""
        kind, end = ("lora_embedding", "") if embedding else ("lora", ".weight")
        start = f"{self._spelled(name.rpartition('.')[0])}.{kind}"
        return f"{start}_A{end}", f"{start}_B{end}"

    def _whole_key(self, name: str) -> str:
        module, _, leaf = name.rpartition(".")
        inner = ".base_layer" if leaf == "bias" and module in self._ranks else ""
        return f"{self._spelled(module)}{inner}.{leaf}"

    def _put(self, key: str, tensor: Tensor) -> None:
        if self._file is not None:
            self._file.write(key, tensor.detach().contiguous())
            return
        if key in self._infos:
            raise OutputError(f"tensor {key!r} is stored twice", hint="Store every tensor once")
        info = TensorInfo(tuple(tensor.shape), tensor.dtype)
        (self._folder / _PARTS).mkdir(exist_ok=True)
        part = self._folder / _PARTS / f"{len(self._infos)}.safetensors"
        with SafetensorsWriter(part, {key: info}, {}) as writer:
            writer.write(key, tensor.detach().contiguous())
        self._infos[key] = info

    def _spelled(self, module: str) -> str:
        return f"base_model.model.{self._rewrapped(module)}"

    def _rewrapped(self, module: str) -> str:
        before, after = self._wrapping
        return before + module.removeprefix(after)

    def _config(self, layout: Layout) -> dict[str, Any]:
        ranks = {self._rewrapped(module): rank for module, rank in self._ranks.items()}
        common = Counter(ranks.values()).most_common(1)[0][0]
        odd = {f"^{re.escape(m)}": rank for m, rank in ranks.items() if rank != common}
        adapted = {f"{module}.bias" for module in self._ranks}
        bias = "lora_only" if adapted.issuperset(layout.biases) else "all"
        return {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": self._base_name,
            "inference_mode": True,
            "r": common,
            "lora_alpha": common,
            "rank_pattern": odd,
            "alpha_pattern": odd,
            "lora_dropout": 0.0,
            "use_rslora": False,
            "init_lora_weights": True,
            "fan_in_fan_out": self._transposed,
            "bias": bias if layout.biases else "none",
            "target_modules": self._targets(list(ranks)),
            "modules_to_save": [self._rewrapped(m) for m in layout.modules] or None,
        }

    def _targets(self, adapted: list[str]) -> list[str] | str:
        """List the modules; where the end of another's name is one of them, say it exactly."""
        others = {self._rewrapped(name.rpartition(".")[0]) for name in self._tensors} - set(adapted)
        ends = tuple(f".{module}" for module in adapted)
        if any(name.endswith(ends) for name in others):
            return "|".join(re.escape(module) for module in adapted)
        return adapted


@contextmanager
def write_adapter(
    target: str | os.PathLike[str],
    tensors: Mapping[str, TensorInfo],
    *,
    transposed: bool = False,
    wrapping: tuple[str, str] = ("", ""),
    base_name: str | None = None,
    overwrite: bool = False,
) -> Iterator[AdapterWriter]:
    """Write an adapter's directory, whole or not at all; call ``finish`` before the block ends.

    Factors are written to their place if they were announced; otherwise they wait in files beside the
    target. Memory holds one of them at a time.

    Parameters
    ----------
    target
        The directory to make.
    tensors
        The base's tensors.
    transposed
        The base stores weights (in, out): ``fan_in_fan_out``.
    wrapping
        As `AdapterCheckpoint.wrapping`, for an adapter that names modules otherwise than the base.
    base_name
        For ``base_model_name_or_path``.
    overwrite
        Replace an existing target.

    Raises
    ------
    OutputError
        The target exists or cannot be written, or the disk is full. Nothing is left behind.
    """
    with atomic_directory(target, overwrite=overwrite) as folder:
        writer = AdapterWriter(
            folder, tensors, transposed=transposed, wrapping=wrapping, base_name=base_name
        )
        try:
            yield writer
        finally:
            writer.close()
