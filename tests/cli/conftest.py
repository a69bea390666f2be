"""A pool of three toy checkpoints on disk, and the command line as a function."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from taskloom.cli.main import invoke


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def data(self):
        return json.loads(self.out)


@pytest.fixture
def cli(capsys):
    def call(*words: object) -> Outcome:
        status = invoke([str(word) for word in words])
        said = capsys.readouterr()
        return Outcome(status, said.out, said.err)

    return call


@pytest.fixture
def models(tmp_path) -> dict[str, Path]:
    values = {"base": [0.0, 0.0, 0.0], "spam": [1.0, 2.0, 0.0], "news": [3.0, -2.0, 4.0]}
    for name, value in values.items():
        folder = tmp_path / name
        folder.mkdir()
        save_file({"w": torch.tensor(value)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return {name: tmp_path / name for name in values}
