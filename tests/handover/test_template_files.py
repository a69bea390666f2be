"""What goes along with the weights: generation settings, chat templates, a tokenizer of one's choice."""

from __future__ import annotations

import json

import pytest

from taskloom.errors import CheckpointError, MissingExtra
from taskloom.store.template import copy_template
from taskloom.store.tokenizer import (
    copy_tokenizer,
    read_chat_template,
    read_vocabulary,
    write_chat_template,
)


def tokenizer(folder, *words, **more):
    folder.mkdir(exist_ok=True)
    table = {"model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}}} | more
    (folder / "tokenizer.json").write_text(json.dumps(table))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def names(folder):
    return {each.name for each in folder.iterdir()}


def test_generation_settings_and_chat_templates_go_along(tmp_path):
    source, out = tokenizer(tmp_path / "a", "x"), tmp_path / "out"
    out.mkdir()
    (source / "generation_config.json").write_text('{"temperature": 0.5}')
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("tools")
    copied = copy_template(source, out)
    assert {
        "generation_config.json",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    } <= {*copied}
    assert read_chat_template(out) == "{{ messages }}"


def test_the_tokenizer_of_another_model(tmp_path):
    out = tokenizer(tmp_path / "out", "a")
    (out / "merges.txt").write_text("stale")
    (out / "config.json").write_text("{}")
    (out / "chat_template.jinja").write_text("ours")
    other = tokenizer(tmp_path / "other", "b")
    (other / "chat_template.jinja").write_text("theirs")
    assert copy_tokenizer(other, out) == ["tokenizer.json", "tokenizer_config.json"]
    assert names(out) == {
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "chat_template.jinja",
    }
    assert dict(read_vocabulary(out).ids) == {"b": 0}
    assert read_chat_template(out) == "ours"


def test_a_chat_template_inside_the_tokenizers_configuration(tmp_path):
    out, other = tokenizer(tmp_path / "out", "a"), tokenizer(tmp_path / "other", "b")
    (out / "tokenizer_config.json").write_text('{"chat_template": "ours"}')
    (other / "tokenizer_config.json").write_text('{"chat_template": "theirs", "x": 1}')
    copy_tokenizer(other, out)
    assert read_chat_template(out) == "ours"
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"x": 1}


def test_a_tokenizer_that_is_none_or_elsewhere(tmp_path):
    out = tokenizer(tmp_path / "out", "a")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"expected a tokenizer such as tokenizer\.json"):
        copy_tokenizer(empty, out)
    (empty / "tokenizer.json").symlink_to(tokenizer(tmp_path / "b", "b") / "tokenizer.json")
    with pytest.raises(CheckpointError, match="a link to"):
        copy_tokenizer(empty, out)
    with pytest.raises(CheckpointError, match="a link to"):
        read_vocabulary(empty)
    assert dict(read_vocabulary(out).ids) == {"a": 0}, "what was there is still there"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": "a"}}, "a"),
        ({"chat_template.json": {"chat_template": "b"}, "tokenizer_config.json": {}}, "b"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tools", "template": "t"},
                        {"name": "default", "template": "d"},
                    ]
                }
            },
            "d",
        ),
        ({"tokenizer_config.json": {"chat_template": [{"name": "tools", "template": "t"}]}}, None),
        ({"chat_template.jinja": "j", "tokenizer_config.json": {"chat_template": "a"}}, "j"),
    ],
)
def test_where_chat_templates_are(tmp_path, files, found):
    for name, held in files.items():
        (tmp_path / name).write_text(held if isinstance(held, str) else json.dumps(held))
    assert read_chat_template(tmp_path) == found
    write_chat_template(tmp_path, "new")
    assert read_chat_template(tmp_path) == "new"
    write_chat_template(tmp_path, None)
    assert read_chat_template(tmp_path) is None


def test_kinds_of_vocabularies(tmp_path):
    folder = tokenizer(
        tmp_path / "a", "x", "y", added_tokens=[{"id": 2, "content": "<z>", "special": True}]
    )
    found = read_vocabulary(folder)
    assert (dict(found.ids), found.size) == ({"x": 0, "y": 1, "<z>": 2}, 3)
    assert found.added["<z>"]["special"] is True
    pieces = {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.5]]}}
    (folder / "tokenizer.json").write_text(json.dumps(pieces))
    assert dict(read_vocabulary(folder).ids) == {"<unk>": 0, "a": 1}
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"p": 1, "q": 0}')
    (folder / "added_tokens.json").write_text('{"<r>": 2}')
    assert dict(read_vocabulary(folder).ids) == {"p": 1, "q": 0, "<r>": 2}
    (folder / "vocab.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\nfilm\n")
    assert dict(read_vocabulary(folder).ids) == {"[PAD]": 0, "film": 1, "<r>": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON, but"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "expected a model with a vocabulary"),
        ('{"model": {"vocab": 3}}', "expected a model with a vocabulary"),
        ('{"model": {"vocab": {"a": 0}}, "added_tokens": [3]}', "a list of added tokens"),
        ('{"model": {"vocab": {"a": 0, "b": 0}}}', "have one id, 0"),
        ('{"model": {"vocab": {"a": "0"}}}', "expected a non-negative id, found '0'"),
        ('{"model": {"vocab": {"a": true}}}', "expected a non-negative id, found True"),
        ('{"model": {"vocab": {"a": 0}, "vocab": {}}}', "'vocab' is given twice"),
        ("\xff", "expected JSON|UTF-8"),
    ],
)
def test_malformed_tokenizers(tmp_path, text, message):
    (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_vocabulary(tmp_path)
    assert "tokenizer.json" in str(caught.value)


def test_a_tokenizer_that_only_transformers_can_read(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"not really")
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        read_vocabulary(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtra, match="reading the tokenizer"):
        read_vocabulary(tmp_path)
