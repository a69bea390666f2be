"""What a reader pastes: load the handed-over directory with plain transformers, reproduce a score."""

from __future__ import annotations

_TEXT = '''"""Reproduces: {reproduces}.

The model is loaded with plain transformers and safetensors; taskloom only brings the test examples.
"""

import json
import sys

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer

from taskloom.evaluation.load import load_task

directory = sys.argv[1] if len(sys.argv) > 1 else {path!r}
model = AutoModel.from_pretrained(directory).eval()
tokenizer = AutoTokenizer.from_pretrained(directory)
with safe_open(f"{{directory}}/heads/{task}.safetensors", "pt") as head:
    weight, bias = head.get_tensor("weight"), head.get_tensor("bias")

data = load_task({task_source!r}, {arguments})
test = data.test.open("reproduce")
hits = 0
with torch.inference_mode():
    for start in range(0, len(test), 32):
        texts = test.inputs[start : start + 32]
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length={max_length}, return_tensors="pt"
        )
        tokens = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None].float()
        features = (tokens * mask).sum(1) / mask.sum(1)
        predicted = (features @ weight.T + bias).argmax(1).numpy()
        hits += int((predicted == test.labels[start : start + 32]).sum())
print(json.dumps({{"task": {task!r}, "n": len(test), "accuracy": hits / len(test)}}))
'''

_GENERIC = '''"""Reproduces: {reproduces}."""

import json
import sys

from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head

directory = sys.argv[1] if len(sys.argv) > 1 else {path!r}
encoder, head = Encoder.load(directory), Head.load(directory, {task!r})
test = load_task({task_source!r}, {arguments}).test.open("reproduce")
hits = int((head.predict(encoder.features(test.inputs)) == test.labels).sum())
print(json.dumps({{"task": {task!r}, "n": len(test), "accuracy": hits / len(test)}}))
'''


def snippet(
    *,
    plain_text: bool,
    path: str,
    task: str,
    task_source: str,
    arguments: dict[str, int | None],
    max_length: int,
    reproduces: str,
) -> str:
    """Return a script that loads ``path`` and prints the test accuracy of one task.

    Parameters
    ----------
    plain_text
        A text encoder with mean pooling, which needs nothing of ours but the data.
    task_source
        Name of the task or path of its annotation.
    arguments
        Keyword arguments of ``load_task`` that give the same test examples.
    """
    given = ", ".join(f"{key}={value}" for key, value in arguments.items() if value is not None)
    return (_TEXT if plain_text else _GENERIC).format(
        path=path,
        task=task,
        task_source=task_source,
        arguments=given,
        max_length=max_length,
        reproduces=reproduces,
    )


def card(
    *, title: str, headline: str, base: str, recipe: str, scores: list[str], licenses: list[str]
) -> str:
    """Return the model card (README.md) of a handed-over directory."""
    lines = "\n".join(f"- {line}" for line in scores)
    data = "\n".join(f"- {line}" for line in licenses)
    return (
        "---\nlibrary_name: transformers\ntags:\n- merge\n- taskloom\n---\n\n"
        f"# {title}\n\n{headline}\n\nBase: {base}\n\n{recipe}\n\n"
        f"## Scores\n\n{lines}\n\n## Data it was made with\n\n{data}\n\n"
        "`reproduce.py` loads this directory and prints one of these scores again.\n"
        "`heads/` holds one linear head per task (weight, bias; class names in the metadata).\n"
    )
