"""Small annotations and files to load tasks from."""

import hashlib
import zipfile
from pathlib import Path

import pytest
import yaml

WORDS = [
    *("amber", "basin", "copper", "drift", "ember", "fjord", "garnet", "harbor", "indigo"),
    *("juniper", "kelp", "lagoon", "meadow", "nectar", "onyx", "pebble", "quartz", "ripple"),
    *("saffron", "tundra", "umber", "velvet", "willow", "xenon", "yonder", "zephyr"),
]


def sentence(i, *, words=8):
    """Text number ``i``; different numbers share few word pairs."""
    picked, state = [], i * 7919 + 13
    for _ in range(words):
        state = (state * 1103515245 + 12345) % 2**31
        picked.append(WORDS[(state >> 8) % len(WORDS)])
    return " ".join(picked)


def annotation(**changes):
    """A complete annotation of a csv file, as YAML would give it."""
    base = {
        "name": "toy",
        "title": "Toy",
        "description": "Two kinds of text.",
        "source": {"kind": "file", "path": "data.csv"},
        "columns": {"inputs": "text", "label": "label"},
        "labels": ["no_label", "yes_label"],
        "license": {"package": "none", "data": "CC0"},
    }
    base.update(changes)
    return {key: value for key, value in base.items() if value is not None}


@pytest.fixture
def write_task(tmp_path):
    """Write an annotation and its data; return the annotation's path."""

    def write(content=None, *, file="data.csv", **changes):
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode()
            (tmp_path / file).write_bytes(data)
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(annotation(**changes)))
        return path

    return write


def csv_of(n, *, labels=("no_label", "yes_label")):
    """Csv text with ``n`` different sentences of alternating labels."""
    lines = [f"{sentence(i)},{labels[i % len(labels)]}" for i in range(n)]
    return "text,label\n" + "\n".join(lines) + "\n"


@pytest.fixture
def cached_package(tmp_path, monkeypatch):
    """Put a zip archive into a fresh cache, as if it had been fetched; return its reference."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("TASKLOOM_CACHE", str(cache))

    def make(members):
        archive = tmp_path / "toypack-1.0-py3-none-any.whl"
        with zipfile.ZipFile(archive, "w") as opened:
            for name, data in members.items():
                opened.writestr(name, data)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        target = cache / "packages" / digest / archive.name
        target.parent.mkdir(parents=True)
        target.write_bytes(archive.read_bytes())
        return {"name": "toypack", "version": "1.0", "sha256": digest}, Path(target)

    return make
