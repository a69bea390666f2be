"""Batch norm of a merge estimated anew: in a call, on the command line, in a plan, and verified."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import ResNetModel

import taskloom
from taskloom.errors import IntegrityError, OutputError, PlanError
from taskloom.evaluation.load import load_task
from taskloom.models.build import init_encoder
from taskloom.models.encoder import Encoder
from taskloom.runs import sweep
from taskloom.runs.batchnorm import BatchNorm, check_batch_norm
from taskloom.runs.pipeline import run
from taskloom.runs.plan import load_plan
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from tiny_models import tiny_bert, tiny_resnet

TASK = "digits_parity"
FIRST = "embedder.embedder.normalization"


def pictures(task=TASK, most=512):
    return load_task(task, seed=0, max_train=most, max_test=2).train.inputs


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    names, seen = ("base", "a", "b"), pictures()
    return {n: str(tiny_resnet(folder / n, seed=k, pictures=seen)) for k, n in enumerate(names)}


def read(path):
    checkpoint = SafetensorsCheckpoint(path)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def statistics(weights):
    return sorted(name for name in weights if name.endswith(("running_mean", "running_var")))


def activations(path, inputs):
    """Outputs of the first convolution, (N, C, H, W)."""
    module, seen = ResNetModel.from_pretrained(path).eval(), {}
    layer = dict(module.named_modules())[FIRST]
    layer.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    with torch.no_grad():
        module(torch.from_numpy(np.asarray(inputs, dtype=np.float32))[:, None])
    return seen["x"]


def test_wrong_before_and_right_after(nets, tmp_path):
    experts = {"a": nets["a"], "b": nets["b"]}
    taskloom.merge_files(nets["base"], experts, "average", tmp_path / "plain")
    amend = taskloom.batch_norm_of(nets["base"], TASK)
    taskloom.merge_files(nets["base"], experts, "average", tmp_path / "new", amend=amend)
    plain, new = read(tmp_path / "plain"), read(tmp_path / "new")
    truth = activations(tmp_path / "new", pictures())
    mean, variance = truth.mean((0, 2, 3)), truth.var((0, 2, 3))
    assert (plain[f"{FIRST}.running_var"] - variance).abs().max() > 0.2 * variance.max()
    torch.testing.assert_close(new[f"{FIRST}.running_mean"], mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(new[f"{FIRST}.running_var"], variance, atol=1e-5, rtol=1e-4)
    changed = [name for name in plain if not torch.equal(plain[name], new[name])]
    assert sorted(changed) == statistics(plain) != []
    features = Encoder.load(tmp_path / "new").features(pictures(most=64))
    assert features.shape == (64, 8)


def test_the_merged_statistics_are_no_part_of_a_threshold_either(nets, tmp_path):
    """Of TIES over the whole model: as if the experts had the base's statistics."""
    amend = taskloom.batch_norm_of(nets["base"], TASK)
    taskloom.merge_files(nets["base"], [nets["a"], nets["b"]], "ties", tmp_path / "new", amend=amend)
    base, *experts = (read(nets[name]) for name in ("base", "a", "b"))
    kept = set(base) - set(statistics(base))
    wanted = taskloom.merge(
        {n: base[n] for n in kept}, [{n: e[n] for n in kept} for e in experts], "ties"
    )
    found = read(tmp_path / "new")
    assert all(torch.equal(found[name], wanted[name]) for name in kept)


def test_inputs_of_several_tasks_are_mixed(nets):
    amend = taskloom.batch_norm_of(nets["base"], [TASK, "digits_mod3"], examples=40)
    assert amend.note == "batch norm of digits_parity and digits_mod3"
    found = amend.estimate(read(nets["a"]))
    both = np.concatenate([pictures(most=40), pictures("digits_mod3", most=40)])
    truth = activations(nets["a"], both)
    torch.testing.assert_close(
        found[f"{FIRST}.running_mean"], truth.mean((0, 2, 3)), atol=1e-5, rtol=1e-4
    )


def test_the_record_verifies_and_a_changed_statistic_does_not(nets, tmp_path):
    amend = taskloom.batch_norm_of(nets["base"], TASK, examples=40)
    taskloom.merge_files(nets["base"], [nets["a"], nets["b"]], "ties", tmp_path / "new", amend=amend)
    record = json.loads((tmp_path / "new" / "taskloom.json").read_text())
    given = record["sources"]["given"]
    assert sorted(given["tensors"]) == statistics(read(tmp_path / "new"))
    assert (given["what"], given["inputs"]) == ("batch norm of digits_parity", 40)
    assert "batch norm of digits" in (tmp_path / "new" / "README.md").read_text()
    for everything in (False, True):
        done = taskloom.verify(tmp_path / "new", everything=everything)
        assert not set(done.recomputed) & set(given["tensors"])
        assert any("not merged but given (batch norm of digits_parity)" in note for note in done.notes)
    assert len(done.recomputed) == len(record["outputs"]["tensors"]) - len(given["tensors"])
    name = f"{FIRST}.running_mean"
    path = tmp_path / "new" / "model.safetensors"
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    start, _ = json.loads(data[8 : 8 + size])[name]["data_offsets"]
    data[8 + size + start] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"running_mean"):
        taskloom.verify(tmp_path / "new")


def test_a_merge_is_the_same_however_often_it_is_made(nets, tmp_path):
    digests = set()
    for number in range(2):
        amend = taskloom.batch_norm_of(nets["base"], TASK, examples=40)
        report = taskloom.merge_files(
            nets["base"], [nets["a"], nets["b"]], "average", tmp_path / str(number), amend=amend
        )
        digests.add(report.digest)
    assert len(digests) == 1


def words(nets, out, *more):
    return ["merge", "--base", nets["base"], "--expert", f"a={nets['a']}", "--expert", f"b={nets['b']}",
            "--method", "average", "-o", out, *more]  # fmt: skip


def test_on_the_command_line(nets, tmp_path, cli):
    status, out, _ = cli(*words(nets, tmp_path / "m", "--reestimate-batchnorm", TASK))
    assert (status, "; batch norm of digits_parity" in out) == (0, True)
    amend = taskloom.batch_norm_of(nets["base"], TASK)
    taskloom.merge_files(nets["base"], [nets["a"], nets["b"]], "average", tmp_path / "call", amend=amend)
    one, two = read(tmp_path / "m"), read(tmp_path / "call")
    assert all(torch.equal(one[name], two[name]) for name in two)
    status, out, _ = cli(*words(nets, tmp_path / "x", "--reestimate-batchnorm", TASK, "--explain"))
    assert (status, "batch norm of digits_parity" in out) == (0, True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("more", [[], ["--check"]])
@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("digits_party", "did you mean 'digits_parity'"),
        ("sms_spam", "has inputs of the kind 'text', but the model"),
    ],
)
def test_a_task_that_is_wrong_is_one_error_and_nothing_is_written(
    nets, tmp_path, cli, task, message, more
):
    status, _, err = cli(*words(nets, tmp_path / "m", "--reestimate-batchnorm", task, *more))
    assert status != 0
    assert message.lower() in err.lower()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--check"]])
def test_a_model_without_batch_norm_is_one_error(tmp_path, cli, more):
    vit = {"kind": "vit", "hidden": 16, "layers": 1, "heads": 2, "intermediate": 16}
    made = {n: str(init_encoder(vit, tmp_path / n, seed=k)) for k, n in enumerate(("base", "a", "b"))}
    status, _, err = cli(*words(made, tmp_path / "m", "--reestimate-batchnorm", TASK, *more))
    assert status != 0
    assert "has no batch norm that keeps statistics" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "base"]


def test_bad_input(nets, tmp_path, cli):
    status, _, err = cli(*words(nets, tmp_path / "m", "--reestimate-batchnorm", TASK, "--ray", "local"))
    assert (status, "--ray" in err) == (2, True)
    status, _, err = cli(*words(nets, tmp_path / "m", "--reestimate-batchnorm", TASK, "--as-adapter"))
    assert (status, "--as-adapter" in err) == (2, True)
    with pytest.raises(PlanError, match="named twice"):
        taskloom.batch_norm_of(nets["base"], [TASK, TASK])
    with pytest.raises(PlanError, match="there is none"):
        taskloom.batch_norm_of(nets["base"], [])
    bert = tiny_bert(tmp_path / "bert")
    save_file({"x.running_mean": torch.zeros(1), **read(bert)}, bert / "model.safetensors")
    with pytest.raises(PlanError, match=r"'image', but the model .* takes 'text'"):
        check_batch_norm(bert, [TASK])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept.txt").write_text("kept")

    def never(program):
        raise AssertionError("the model was run for an output that is refused")

    with pytest.raises(OutputError, match="exists"):
        taskloom.merge_files(
            nets["base"], [nets["a"], nets["b"]], "average", tmp_path / "there", amend=never
        )


def plan(nets, **changes):
    return {
        "name": "norm",
        "base": {"path": nets["base"]},
        "limits": {"train": 40, "validation": 30, "test": 30},
        "pool": [
            {"task": "digits_parity", "expert": nets["a"]},
            {"task": "digits_mod3", "expert": nets["b"]},
        ],
        "merge": [
            "average",
            {"average": {"name": "normed", "reestimate_batchnorm": ["digits_parity", "digits_mod3"]}},
            {"task_arithmetic": {"reestimate_batchnorm": TASK, "sweep": {"scale": [0.5, 0.2]}}},
        ],
        "guard": "warn",
        **changes,
    }


def test_in_a_plan(nets, tmp_path, monkeypatch):
    tried = {}

    def spied(pool, item, bench, option, settings, known=None):
        for setting, weights in zip(
            settings, settings_of(pool, item, bench, option, settings, known), strict=True
        ):
            tried[setting] = dict(weights)
            yield weights

    settings_of = sweep._settings
    monkeypatch.setattr(sweep, "_settings", spied)
    result = run(plan(nets), output=tmp_path / "run")
    models = {model.name: model for model in result.models}
    assert models["normed"].composition.endswith("; batch norm of digits_parity and digits_mod3")
    assert "batch norm" not in models["average"].composition
    assert models["normed"].digest != models["average"].digest
    assert "batch norm of digits_parity" in (tmp_path / "run" / "report.html").read_text()
    encoder = Encoder.load(nets["base"])
    data = load_task(TASK, seed=0, max_train=40, max_validation=30, max_test=30)
    for scale, weights in tried.items():
        own = taskloom.merge(nets["base"], [nets["a"], nets["b"]], "task_arithmetic", scale=scale)
        wanted = own | BatchNorm(encoder, [data]).estimate(own)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=1e-6)
    assert sorted(tried) == [0.2, 0.5]


def test_a_plan_that_is_wrong(nets, tmp_path):
    wrong = [{"average": {"reestimate_batchnorm": "digits_ten"}}]
    with pytest.raises(PlanError, match=r"estimated on 'digits_ten', which is not in the pool"):
        load_plan(plan(nets, merge=wrong))
    wrong = [{"average": {"reestimate_batchnorm": ["digits_parity", "digits_parity"]}}]
    with pytest.raises(PlanError, match="named twice"):
        run(plan(nets, merge=wrong), output=tmp_path / "run")
