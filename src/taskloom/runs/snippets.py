"""What a reader pastes: load the handed-over directory with plain transformers, reproduce a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taskloom.runs.plan import Evaluation
from taskloom.runs.result import ScoreRecord

_TEXT = '''"""Reproduces: {reproduces}.

The model is loaded with plain transformers and safetensors; taskloom only brings the test examples
and the metric.
"""

import json
import os
import sys

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer

from taskloom import registry
from taskloom.evaluation.load import load_task

directory = sys.argv[1] if len(sys.argv) > 1 else {folder}
model = AutoModel.from_pretrained(directory).eval()
tokenizer = AutoTokenizer.from_pretrained(directory)
with safe_open(f"{{directory}}/heads/{task}.safetensors", "pt") as head:
    weight, bias = head.get_tensor("weight"), head.get_tensor("bias")

data = load_task({task_source!r}, {arguments})
test = data.test.open("reproduce")
predicted = []
with torch.inference_mode():
    for start in range(0, len(test), 32):
        texts = test.inputs[start : start + 32]
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length={max_length}, return_tensors="pt"
        )
        tokens = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None].float()
        features = (tokens * mask).sum(1) / mask.sum(1)
        predicted.append((features @ weight.T + bias).argmax(1).numpy())
value = registry.get("metric", {metric!r}).function(test.labels, np.concatenate(predicted))
print(json.dumps({{"task": {task!r}, "n": len(test), {metric!r}: float(value)}}))
'''

_GENERIC = '''"""Reproduces: {reproduces}."""

import json
import os
import sys

from taskloom import registry
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head

directory = sys.argv[1] if len(sys.argv) > 1 else {folder}
encoder = Encoder.load(directory, max_length={max_length})
head = Head.load(directory, {task!r})
test = load_task({task_source!r}, {arguments}).test.open("reproduce")
features = encoder.features(test.inputs, batch_size={batch_size}, precision={precision!r})
value = registry.get("metric", {metric!r}).function(test.labels, head.predict(features))
print(json.dumps({{"task": {task!r}, "n": len(test), {metric!r}: float(value)}}))
'''


@dataclass(frozen=True)
class Reproduction:
    """One test score, and all that is needed to measure it again.

    Attributes
    ----------
    task_source
        Name of the task or path of its annotation.
    arguments
        Keyword arguments of ``load_task`` that give the same test examples.
    pooling
        Of a text encoder; None for images.
    """

    score: ScoreRecord
    task_source: str
    arguments: Mapping[str, int | None]
    evaluation: Evaluation
    pooling: str | None

    def __str__(self) -> str:
        s = self.score
        return f"{s.task} test {s.metric} {s.value:.6f} (n = {s.n})"

    def script(self, path: str | None = None) -> str:
        """Return a script that loads ``path`` (its own folder if None) and prints the score.

        A text encoder with mean pooling in float32 needs plain transformers only. Anything else goes
        through our encoder: bfloat16 rounds by the batch, so that only equal batches give equal
        predictions.
        """
        plain = self.pooling == "mean" and self.evaluation.precision == "fp32"
        given = ", ".join(f"{key}={value}" for key, value in self.arguments.items() if value is not None)
        return (_TEXT if plain else _GENERIC).format(
            folder="os.path.dirname(os.path.abspath(__file__))" if path is None else repr(path),
            task=self.score.task,
            metric=self.score.metric,
            task_source=self.task_source,
            arguments=given,
            max_length=self.evaluation.max_length,
            batch_size=self.evaluation.batch_size,
            precision=self.evaluation.precision,
            reproduces=str(self),
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
