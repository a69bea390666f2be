"""Chat templates by name: the text of a conversation, by each format's own description."""

import json

import pytest

from taskloom.runs.mergekit.chat import TEMPLATES

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
]
WANTED = {
    "alpaca": "Be brief.\n\n### Instruction:\nOne?\n\n### Response:\n1\n\n### Instruction:\nTwo?\n\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
    "<|im_start|>assistant\n1<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]One?\n[|assistant|]1[|endofturn|]\n"
    "[|user|]Two?\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n1<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nTwo?<|eot_id|>",
    "mistral": "<s> [INST] Be brief.\n\nOne? [/INST] 1</s> [INST] Two? [/INST]",
}
ANSWER = {
    "alpaca": "### Response:\n",
    "chatml": "<|im_start|>assistant\n",
    "exaone": "[|assistant|]",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "",
}
UNMANNED = {"exaone": "[|system|][|endofturn|]\n[|user|]Hi\n", "mistral": "<s> [INST] Hi [/INST]"}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def rendered(tokenizer, text, talk, *, prompt=False):
    return tokenizer.apply_chat_template(
        talk, chat_template=text, tokenize=False, add_generation_prompt=prompt
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation(tokenizer, name):
    assert rendered(tokenizer, TEMPLATES[name], TALK) == WANTED[name]
    assert rendered(tokenizer, TEMPLATES[name], TALK, prompt=True) == WANTED[name] + ANSWER[name]


@pytest.mark.parametrize("name", UNMANNED)
def test_a_conversation_without_a_system_message(tokenizer, name):
    assert rendered(tokenizer, TEMPLATES[name], [{"role": "user", "content": "Hi"}]) == UNMANNED[name]


def test_roles_that_a_format_does_not_have(tokenizer):
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="take turns"):
        rendered(tokenizer, TEMPLATES["mistral"], TALK[:1] + TALK[2:])
    with pytest.raises(TemplateError, match="no role tool"):
        rendered(tokenizer, TEMPLATES["alpaca"], [{"role": "tool", "content": "x"}])
    context = [{"role": "user_context", "content": " x "}]
    assert rendered(tokenizer, TEMPLATES["alpaca"], context) == "### Input:\nx\n\n"


def test_a_merge_gets_the_template_by_name(bench):
    config = "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n"
    bench.merge(config + "chat_template: chatml")
    found = (bench.folder / "out" / "chat_template.jinja").read_text()
    assert found == TEMPLATES["chatml"]
    listed = json.loads((bench.folder / "out" / "taskloom.json").read_text())["outputs"]["files"]
    assert "chat_template.jinja" in listed


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["chatml", "mistral"])
@pytest.mark.parametrize("prompt", [True, False])
def test_as_the_peer_renders_it(tokenizer, name, prompt):
    """The other three differ in blanks and newlines of the peer's own layout."""
    import importlib.resources

    package = pytest.importorskip("mergekit._data.chat_templates", reason="mergekit is not installed")
    theirs = importlib.resources.files(package).joinpath(f"{name}.jinja").read_text()
    for talk in (TALK, TALK[1:], TALK[:2]):
        ours = rendered(tokenizer, TEMPLATES[name], talk, prompt=prompt)
        assert ours == rendered(tokenizer, theirs, talk, prompt=prompt)
