"""Files of several documents, the command line, adapters, and outputs that exist."""

import json

import pytest
import torch

from taskloom.cli.main import invoke
from taskloom.errors import OutputError
from taskloom.runs.mergekit.api import merge_mergekit, plan_mergekit

CHAIN = """
merge_method: linear
models:
- {model: first, parameters: {weight: 1}}
- {model: c, parameters: {weight: 1}}
---
name: first
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
"""


def test_documents_build_on_each_other(bench):
    out = bench.merge(CHAIN)
    a, b, c = (bench.tensors(name) for name in "abc")
    for name, tensor in out.items():
        torch.testing.assert_close(tensor, ((a[name] + b[name]) / 2 + c[name]) / 2)
    assert (bench.folder / "out.intermediate" / "first" / "config.json").is_file()


def test_an_intermediate_of_the_same_text_is_used_again(bench):
    path = bench.write(CHAIN)
    merge_mergekit(path, bench.folder / "out")
    report = merge_mergekit(path, bench.folder / "out2", intermediate=bench.folder / "out.intermediate")
    assert [stage.reused for stage in report.stages] == [True, False]
    other = bench.write(CHAIN.replace("parameters: {weight: 1}\n", "parameters: {weight: 2}\n"))
    with pytest.raises(OutputError, match="exists already"):
        merge_mergekit(other, bench.folder / "out3", intermediate=bench.folder / "out.intermediate")
    assert not (bench.folder / "out3").exists()


def test_where_all_have_names_the_output_holds_them(bench):
    second = "name: second\n" + CHAIN.split("---")[0]
    report = merge_mergekit(bench.write(second + "---" + CHAIN.split("---")[1]), bench.folder / "out")
    assert [stage.path.name for stage in report.stages] == ["first", "second"]
    assert (bench.folder / "out" / "second" / "model.safetensors").is_file()


def test_a_plan_of_documents_touches_nothing(bench):
    stages = plan_mergekit(bench.write(CHAIN), bench.folder / "out")
    assert [stage.document.name for stage in stages] == ["first", None]
    assert sorted(p.name for p in bench.folder.iterdir()) == ["merge.yaml"]


def test_an_output_that_exists(bench):
    config = "merge_method: passthrough\nmodels: [{model: a}]"
    bench.merge(config)
    with pytest.raises(OutputError, match="exists already"):
        bench.merge(config)
    bench.merge(config, overwrite=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, about transformers
def test_an_adapter_on_a_model(bench):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(bench.zoo / "base")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(bench.folder / "lora")
    whole = adapted.merge_and_unload().state_dict()
    named = f"{bench.zoo / 'base'}+{bench.folder / 'lora'}"
    out = bench.merge({"merge_method": "passthrough", "models": [{"model": named}]})
    for name, tensor in out.items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-5, atol=1e-6)


def run(capsys, *words):
    status = invoke([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_line(bench, capsys):
    path = bench.write("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}")
    status, out, _ = run(capsys, "merge", path, bench.folder / "out")
    assert status == 0
    assert "linear, 30 tensors; 1 reads" in out
    assert (bench.folder / "out" / "config.json").is_file()
    status, out, _ = run(capsys, "merge", path, bench.folder / "out", "--force", "--json")
    assert json.loads(out)["stages"][0]["tensors"] == 30


def test_check_reads_no_weights(bench, capsys, monkeypatch):
    from taskloom.store.safetensors_dir import SafetensorsCheckpoint

    def read(*_):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(SafetensorsCheckpoint, "read", read)
    path = bench.write(CHAIN)
    status, out, _ = run(capsys, "merge", "--check", path)
    assert status == 0
    assert out.count("30 tensors") == 2
    status, out, _ = run(capsys, "merge", "--check", "--json", path)
    assert [stage["tensors"] for stage in json.loads(out)["merges"]] == [30, 30]
    status, out, _ = run(capsys, "merge", "--explain", path, bench.folder / "out")
    assert status == 0
    assert out.count("model.safetensors (") == 3  # a and b, then c
    assert "MB free on disk" in out
    assert not (bench.folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("merge_method: tie\nmodels: [{model: a}]", "unknown merge_method 'tie': did you mean 'ties'"),
        ("merge_method: linear\nmodels: [{model: nowhere/at/all}]", "nowhere/at/all"),
        (
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\nchat_template: chat",
            "Jinja",
        ),
        ("models: [{model: a}]", "merge_method"),
    ],
)
def test_faults_end_with_one_sentence(bench, capsys, text, said):
    status, _, err = run(capsys, "merge", bench.write(text), bench.folder / "out")
    assert status in (2, 3)
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (bench.folder / "out").exists()


def test_an_output_must_be_named(bench, capsys):
    status, _, err = run(capsys, "merge", bench.write("merge_method: linear"))
    assert status == 2
    assert "where the output goes" in err
