"""Two small suites: digits on a tiny vision transformer, texts on a tiny BERT, which takes adapters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from tiny_models import tiny_bert

from ..test_text_run import annotate

TINY: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "tiny.yaml").read_text(encoding="utf-8"))


def write_suite(path: Path, content: dict[str, Any] = TINY, **changes: Any) -> Path:
    """Write a suite with some top-level keys replaced."""
    path.write_text(yaml.safe_dump({**copy.deepcopy(content), **changes}), encoding="utf-8")
    return path


def text_suite(folder: Path) -> Path:
    """Write a suite of three text tasks beside their data and base."""
    tiny_bert(folder / "bert", dropout=0.0)
    tasks = [str(annotate(folder, name, seed)) for seed, name in enumerate(("first", "second", "third"))]
    train = {"steps": 6, "batch_size": 16}
    content = {
        "name": "words",
        "title": "Three text tasks on a tiny BERT",
        "base": {"path": str(folder / "bert")},
        "limits": {"train": 60, "validation": 20, "test": 30},
        "tasks": tasks,
        "experts": {
            "full": {**train, "learning_rate": 0.003, "freeze": ["embeddings."]},
            "lora": {**train, "learning_rate": 0.02, "lora_rank": 2, "lora_alpha": 4},
        },
        "seeds": [0],
        "counts": [2, 3],
        "evaluation": {"max_length": 12, "batch_size": 16},
        "statistics": {"fisher": {"examples": 4}, "sensitivity": {"examples": 4}},
    }
    return write_suite(folder / "words.yaml", content)
