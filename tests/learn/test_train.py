"""Training: the same bytes every time, also when interrupted; and what is refused."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import taskloom.learn.loop as loop
from taskloom import registry
from taskloom.errors import (
    CheckpointError,
    DataError,
    IntegrityError,
    MissingExtra,
    NumericalError,
    OutputError,
    PlanError,
    UnknownName,
)
from taskloom.learn.batches import BatchPlan
from taskloom.learn.data import data_digest
from taskloom.learn.head import fit_head
from taskloom.learn.loop import schedule
from taskloom.learn.options import TrainOptions
from taskloom.learn.pretrain import pretrain_base
from taskloom.learn.state import Evaluation
from taskloom.learn.train import train_expert
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.store.open import open_checkpoint
from tiny_models import texts, tiny_bert

TRAIN, VALIDATION = texts(40, seed=1), texts(20, seed=2)
LABELS = ("court", "sport")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def head(bert):
    return fit_head(Encoder.load(bert).features(TRAIN[0]), TRAIN[1], LABELS, task="kind")


def options(**changes):
    fields = {"steps": 6, "batch_size": 8, "learning_rate": 3e-3, "evaluate_every": 2}
    return TrainOptions(**(fields | changes))


def train(bert, head, cache, *, progress=None, **changes):
    more = {} if progress is None else {"progress": progress}
    return train_expert(bert, head, TRAIN, VALIDATION, options(**changes), cache=cache, **more)


def weights(expert):
    name = "model" if (expert.directory / "model.safetensors").exists() else "adapter_model"
    return (expert.directory / f"{name}.safetensors").read_bytes()


def stop_at(step, error=KeyboardInterrupt):
    def progress(label, done, total):
        if done == step:
            raise error

    return progress


# --- the result ------------------------------------------------------------------------------


def test_full_result_is_a_model_directory(bert, head, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    told = []
    expert = train(bert, head, tmp_path, progress=lambda *call: told.append(call))
    model = AutoModel.from_pretrained(expert.directory, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(expert.directory)
    features = Encoder.load(expert.directory).features(VALIDATION[0])
    with torch.no_grad():
        hidden = model(**tokenizer(VALIDATION[0][0], return_tensors="pt")).last_hidden_state
    np.testing.assert_allclose(features[0], hidden[0].mean(0).numpy(), atol=1e-5)
    accuracy = (Head.load(expert.directory, "kind").predict(features) == VALIDATION[1]).mean()
    assert accuracy == pytest.approx(expert.best_validation)
    assert expert.head is head
    assert Head.load(expert.directory, "kind").digest() == head.digest()
    assert not expert.cached
    assert [e.step for e in expert.history] == [2, 4, 6]
    assert expert.before.step == 0
    assert told[0] == ("train kind", 0, 6)
    assert told[-1] == ("train kind", 6, 6)
    assert [path.name for path in tmp_path.iterdir()] == [expert.directory.name]


def test_training_lowers_the_loss_and_moves_every_weight(bert, head, tmp_path):
    expert = train(bert, head, tmp_path, steps=20, evaluate_every=20)
    assert expert.validation.loss < expert.before.loss
    before = load_file(bert / "model.safetensors")
    after = load_file(expert.directory / "model.safetensors")
    assert list(before) == list(after)
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert still == []


def test_provenance(bert, head, tmp_path):
    expert = train(bert, head, tmp_path)
    table = json.loads((expert.directory / "taskloom.json").read_text())
    assert table["kind"] == "expert"
    assert table["task"] == "kind"
    assert table["key"] == expert.key
    assert table["base"]["digest"] == Encoder.load(bert).digest()
    assert table["inputs"]["train"] == data_digest(TRAIN)
    assert table["validation"]["accuracy"] == expert.best_validation


def test_stored_dtype_and_extra_tensors_are_kept(bert, head, tmp_path):
    import shutil

    from safetensors.torch import save_file

    folder = shutil.copytree(bert, tmp_path / "half")
    tensors = {k: v.bfloat16() for k, v in load_file(bert / "model.safetensors").items()}
    tensors["embeddings.position_ids"] = torch.arange(24)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    expert = train(folder, head, tmp_path / "cache")
    after = load_file(expert.directory / "model.safetensors")
    assert {k: v.dtype for k, v in after.items()} == {k: v.dtype for k, v in tensors.items()}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft calls it
def test_lora_result_loads_in_peft_and_in_the_store(bert, head, tmp_path):
    from peft import PeftModel
    from transformers import AutoModel

    expert = train(bert, head, tmp_path, method="lora", lora_rank=3, lora_alpha=6, steps=10)
    names = {path.name for path in expert.directory.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "heads", "taskloom.json"}
    config = json.loads((expert.directory / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 6)
    adapted = PeftModel.from_pretrained(
        AutoModel.from_pretrained(bert, add_pooling_layer=False), expert.directory
    )
    merged = adapted.merge_and_unload().state_dict()
    checkpoint = open_checkpoint(expert.directory, base=open_checkpoint(bert))
    base = Encoder.load(bert)
    for name in checkpoint.tensors:
        torch.testing.assert_close(checkpoint.read(name), merged[name], atol=1e-6, rtol=1e-5)
    state = {name: checkpoint.read(name) for name in checkpoint.tensors}
    features = base.features(VALIDATION[0], weights=state)
    assert (head.predict(features) == VALIDATION[1]).mean() == expert.best_validation
    assert np.abs(features - base.features(VALIDATION[0])).max() > 1e-4


def test_lora_targets(bert, head, tmp_path):
    expert = train(bert, head, tmp_path, method="lora", lora_targets=("query",))
    tensors = load_file(expert.directory / "adapter_model.safetensors")
    assert tensors
    assert all(".query." in name for name in tensors)
    with pytest.raises(PlanError, match=r"lora_targets' is \['nothing'\]"):
        train(bert, head, tmp_path, method="lora", lora_targets=("nothing",))


def test_poolers_stay(head, tmp_path):
    folder = tiny_bert(tmp_path / "pooler", pooler=True)
    full = train(folder, head, tmp_path / "a")
    name = "pooler.dense.weight"
    before = load_file(folder / "model.safetensors")[name]
    assert torch.equal(load_file(full.directory / "model.safetensors")[name], before)
    lora = train(folder, head, tmp_path / "a", method="lora")
    tensors = load_file(lora.directory / "adapter_model.safetensors")
    assert not any("pooler" in name for name in tensors)


def test_freeze(bert, head, tmp_path):
    expert = train(bert, head, tmp_path, freeze=("embeddings.", "encoder.layer.0."))
    before = load_file(bert / "model.safetensors")
    after = load_file(expert.directory / "model.safetensors")
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same == name.startswith(("embeddings.", "encoder.layer.0.")), name
    with pytest.raises(PlanError, match=r"'freeze' names 'embedding\.'"):
        train(bert, head, tmp_path, freeze=("embedding.",))
    with pytest.raises(PlanError, match="leaves nothing to train"):
        train(bert, head, tmp_path, freeze=("e",))


def test_images_train_too(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.random((60, 8, 8)), np.arange(60) % 2
    images[labels == 1, :4] += 1.0
    spec = {"hidden": 16, "layers": 1, "heads": 2, "intermediate": 32}
    told = []
    base = pretrain_base(
        spec,
        (images[:40], labels[:40]),
        (images[40:], labels[40:]),
        ("no", "yes"),
        TrainOptions(epochs=6, batch_size=8, learning_rate=3e-3),
        cache=tmp_path,
        task="half",
        progress=lambda *call: told.append(call),
    )
    trained = Head.load(base, "half")
    assert trained.weight.any()
    features = Encoder.load(base).features(images[40:])
    assert (trained.predict(features) == labels[40:]).mean() > 0.9
    assert told[-1] == ("train half", 30, 30)
    again = pretrain_base(
        spec,
        (images[:40], labels[:40]),
        (images[40:], labels[40:]),
        ("no", "yes"),
        TrainOptions(epochs=6, batch_size=8, learning_rate=3e-3),
        cache=tmp_path,
        task="half",
    )
    assert again == base
    with pytest.raises(PlanError, match="stores under another name"):
        train_expert(
            base, trained, (images[:40], labels[:40]), (images[40:], labels[40:]),
            options(method="lora"), cache=tmp_path,
        )  # fmt: skip


# --- determinism, cache, resumption ----------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora"])
def test_same_call_same_bytes_other_seed_other_bytes(bert, head, tmp_path, method):
    first = train(bert, head, tmp_path / "a", method=method)
    torch.manual_seed(99)
    second = train(bert, head, tmp_path / "b", method=method)
    other = train(bert, head, tmp_path / "c", method=method, seed=1)
    assert weights(first) == weights(second) != weights(other)
    assert first.key == second.key != other.key


def test_global_random_state_is_left_alone(bert, head, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(bert, head, tmp_path, method="lora")
    torch.testing.assert_close(torch.rand(2), expected)


def test_second_call_is_cached(bert, head, tmp_path):
    first = train(bert, head, tmp_path)
    told = []
    second = train(bert, head, tmp_path, save_every=3, progress=lambda *call: told.append(call))
    assert second.cached
    assert told == []
    assert second.directory == first.directory
    assert second.history == first.history
    assert second.validation == first.validation
    assert second.head.digest() == head.digest()


def test_key_depends_on_everything_that_matters(bert, head, tmp_path, monkeypatch):
    def key(base=bert, with_head=head, data=TRAIN, extra=None, **changes):
        return train_expert(
            base, with_head, data, VALIDATION, options(steps=1, **changes),
            cache=tmp_path / "cache", key_extra=extra,
        ).key  # fmt: skip

    other_head = Head(head.weight + 1, head.bias, head.labels, head.task)
    keys = [
        key(),
        key(base=tiny_bert(tmp_path / "other", seed=9)),
        key(with_head=other_head),
        key(data=(TRAIN[0][:-2], TRAIN[1][:-2])),
        key(extra={"plan": 2}),
        key(learning_rate=1e-3),
    ]
    monkeypatch.setattr("taskloom.learn.train.CODE_VERSION", 2)
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_damaged_result_is_trained_again(bert, head, tmp_path):
    first = train(bert, head, tmp_path)
    expected = weights(first)
    (first.directory / "taskloom.json").write_text("{")
    again = train(bert, head, tmp_path)
    assert not again.cached
    assert weights(again) == expected


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("step", [4, 5])
def test_interrupted_training_goes_on_to_the_same_weights(bert, head, tmp_path, step, method):
    whole = train(bert, head, tmp_path / "whole", steps=8, method=method)
    cache = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(bert, head, cache, steps=8, save_every=2, method=method, progress=stop_at(step))
    assert [p.name for p in cache.iterdir()] == [f"{whole.directory.name}.partial"]
    assert [p.name for p in next(cache.iterdir()).iterdir()] == ["state.safetensors"]
    told = []
    resumed = train(
        bert, head, cache, steps=8, method=method, progress=lambda *call: told.append(call[1])
    )
    assert told[0] == (4 if step == 5 else 2)
    assert weights(resumed) == weights(whole)
    assert resumed.history == whole.history
    assert [p.name for p in cache.iterdir()] == [whole.directory.name]


def test_interrupted_head_training_goes_on(bert, head, tmp_path):
    whole = train(bert, head, tmp_path / "whole", train_head=True)
    assert whole.head.digest() != head.digest()
    with pytest.raises(KeyboardInterrupt):
        train(bert, head, tmp_path / "cut", train_head=True, save_every=1, progress=stop_at(5))
    resumed = train(bert, head, tmp_path / "cut", train_head=True)
    assert resumed.head.digest() == whole.head.digest()
    assert weights(resumed) == weights(whole)


def test_interrupted_before_anything_was_saved_leaves_nothing(bert, head, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(bert, head, tmp_path / "cache", progress=stop_at(3))
    assert not (tmp_path / "cache").exists()


def test_interrupted_while_writing_leaves_only_the_state(bert, head, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("taskloom.learn.train.write_provenance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(bert, head, tmp_path, save_every=4)
    assert [p.suffix for p in tmp_path.iterdir()] == [".partial"]
    assert train(bert, head, tmp_path).steps == 6


def test_killed_process_goes_on(bert, head, tmp_path):
    whole = train(bert, head, tmp_path / "whole", save_every=2)
    head.save(tmp_path)
    code = f"""
        import os, sys; sys.path.insert(0, {str((tmp_path / "x").parent)!r})
        sys.path.insert(0, {str(__file__).rsplit("/", 2)[0]!r})
        from tiny_models import texts
        from taskloom.learn.options import TrainOptions
        from taskloom.learn.train import train_expert
        from taskloom.models.head import Head
        train_expert({str(bert)!r}, Head.load({str(tmp_path)!r}, "kind"), texts(40, seed=1),
            texts(20, seed=2), TrainOptions(steps=6, batch_size=8, learning_rate=3e-3,
            evaluate_every=2, save_every=2), cache={str(tmp_path / "cut")!r},
            progress=lambda label, done, total: os._exit(9) if done == 5 else None)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == 9
    told = []
    resumed = train(
        bert, head, tmp_path / "cut", save_every=2, progress=lambda *call: told.append(call[1])
    )
    assert told[0] == 4
    assert weights(resumed) == weights(whole)


def test_damaged_state_is_refused(bert, head, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(bert, head, tmp_path, save_every=2, progress=stop_at(4))
    state = next(tmp_path.glob("*.partial/state.safetensors"))
    content = state.read_bytes()
    for damaged in (content[:-7], b"nonsense", content.replace(b'"key"', b'"kay"')):
        state.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"Remove .*\.partial to start"):
            train(bert, head, tmp_path)
    state.write_bytes(content)
    assert train(bert, head, tmp_path).steps == 6


def test_full_disk_is_one_error_and_leaves_the_last_state(bert, head, tmp_path, monkeypatch):
    import errno

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        train(bert, head, tmp_path, save_every=2, progress=stop_at(4))
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(OutputError, match="disk"):
            train(bert, head, tmp_path, save_every=2)
    with monkeypatch.context() as patch:
        patch.setattr("taskloom.store.writer.SafetensorsWriter.write", full)
        with pytest.raises(OutputError, match="disk"):
            train(bert, head, tmp_path)
    assert [p.suffix for p in tmp_path.iterdir()] == [".partial"]
    assert [p.name for p in next(tmp_path.iterdir()).iterdir()] == ["state.safetensors"]


# --- stopping, best weights, numbers ---------------------------------------------------------


def test_best_weights_are_kept_and_patience_stops(bert, head, tmp_path, monkeypatch):
    scripted = iter([0.5, 0.6, 0.9, 0.8, 0.9, 0.7, 0.95])
    seen = {}

    def evaluate(job, step):
        seen[step] = {name: p.detach().clone() for name, p in job.parameters.items()}
        return Evaluation(step, next(scripted), 1.0)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    expert = train(bert, head, tmp_path, steps=20, patience=3)
    assert expert.validation == Evaluation(4, 0.9, 1.0)
    assert expert.before.accuracy == 0.5
    assert expert.steps == 10
    after = load_file(expert.directory / "model.safetensors")
    assert all(torch.equal(after[name], seen[4][name]) for name in seen[4])


def test_better_evaluation():
    best = Evaluation(1, 0.5, 1.0)
    assert best.beats(None)
    assert Evaluation(2, 0.6, 2.0).beats(best)
    assert Evaluation(2, 0.5, 0.9).beats(best)
    assert not Evaluation(2, 0.5, 1.0).beats(best)
    assert not Evaluation(2, 0.4, 0.1).beats(best)


def test_evaluation_by_hand(bert, head, tmp_path):
    expert = train(bert, head, tmp_path)
    probabilities = head.probabilities(Encoder.load(bert).features(VALIDATION[0]))
    right = probabilities[np.arange(20), VALIDATION[1]]
    assert expert.before.loss == pytest.approx(-np.log(right).mean(), abs=1e-4)
    assert expert.before.accuracy == (probabilities.argmax(1) == VALIDATION[1]).mean()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nan_names_step_and_task(head, tmp_path, precision):
    with pytest.raises(NumericalError, match=r"task 'kind': .* in step \d+ of 60"):
        train(
            tiny_bert(tmp_path / "m"), head, tmp_path / "c",
            steps=60, learning_rate=1e30, warmup=0.0, precision=precision,
        )  # fmt: skip
    assert not (tmp_path / "c").exists()


def test_bf16_trains(bert, head, tmp_path):
    expert = train(bert, head, tmp_path, steps=20, precision="bf16")
    assert expert.validation.loss < expert.before.loss


def test_epochs_become_steps(bert, head, tmp_path):
    expert = train(bert, head, tmp_path, steps=None, epochs=1.6, evaluate_every=None)
    assert expert.steps == 8
    assert [e.step for e in expert.history] == [2, 4, 6, 8]


def test_schedule():
    shares = [schedule(step, 10, 0.3) for step in range(10)]
    np.testing.assert_allclose(shares[:3], [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(shares[3:], np.arange(7, 0, -1) / 7)
    assert schedule(0, 1, 0.1) == 1.0
    assert schedule(0, 5, 0.0) == 1.0


def test_batches_cover_an_epoch_and_are_of_similar_length():
    lengths = np.random.default_rng(0).integers(3, 60, 500)
    plan = BatchPlan(lengths, 16, seed=4)
    epochs = [[plan.at(s) for s in range(e * 32, (e + 1) * 32)] for e in (0, 1)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(500))
        padded = sum(len(rows) * lengths[rows].max() for rows in epoch)
        assert padded < 1.1 * lengths.sum()
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    again = BatchPlan(lengths, 16, seed=4)
    np.testing.assert_array_equal(again.at(40), epochs[1][8])
    assert not np.array_equal(BatchPlan(lengths, 16, seed=5).at(0), epochs[0][0])


# --- refusals --------------------------------------------------------------------------------


def test_bad_data_is_refused(bert, head, tmp_path):
    def attempt(train_data=TRAIN, validation=VALIDATION, with_head=head, **changes):
        train_expert(bert, with_head, train_data, validation, options(**changes), cache=tmp_path / "c")

    with pytest.raises(DataError, match=r"task 'kind', train: .* found 0 and 0"):
        attempt(train_data=([], np.zeros(0, dtype=int)))
    with pytest.raises(DataError, match="train: expected examples of 2 classes or more, found 1"):
        attempt(train_data=(TRAIN[0], TRAIN[1] * 0))
    with pytest.raises(DataError, match="validation: expected labels from 0 to 1, found 7"):
        attempt(validation=(["a"], np.array([7])))
    with pytest.raises(DataError, match=r"validation: .* found 1 and 2"):
        attempt(validation=(["a"], np.array([0, 1])))
    with pytest.raises(DataError, match="head on 16 features, found one on 3"):
        attempt(with_head=Head(np.zeros((2, 3)), np.zeros(2), LABELS, "kind"))
    with pytest.raises(UnknownName, match="did you mean 'lora'"):
        attempt(method="lorra")
    with pytest.raises(CheckpointError, match="model directory"):
        train_expert(tmp_path / "no", head, TRAIN, VALIDATION, options(), cache=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_options_are_checked():
    assert TrainOptions.parse({"method": "lora", "lora_rank": 4}).lora_rank == 4
    with pytest.raises(PlanError, match="did you mean 'learning_rate'"):
        TrainOptions.parse({"learningrate": 1})
    with pytest.raises(PlanError, match="option 'batch_size' is 0"):
        TrainOptions.parse({"batch_size": 0})
    with pytest.raises(PlanError, match="precision"):
        TrainOptions.parse({"precision": "fp8"})
    for name in ("learning_rate", "epochs", "lora_alpha"):
        with pytest.raises(PlanError, match=f"training: option '{name}' is inf, but .*finite"):
            TrainOptions.parse({name: float("inf")})
    assert TrainOptions.parse({"max_grad_norm": float("inf")}).max_grad_norm == float("inf")
    with pytest.raises(PlanError, match="training: option 'max_grad_norm' is nan"):
        TrainOptions.parse({"max_grad_norm": float("nan")})
    with pytest.raises(PlanError, match="training: option 'steps' is True, but it is no switch"):
        TrainOptions.parse({"steps": True})
    with pytest.raises(PlanError, match=r"training: option 'freeze\.1' is 3, but"):
        TrainOptions.parse({"freeze": ["embeddings.", 3]})


def test_methods_are_registered():
    assert [e.name for e in registry.entries("train")] == ["full", "lora"]
    for entry in registry.entries("train"):
        assert entry.paper
        assert set(entry.schema.model_fields) <= set(TrainOptions.model_fields)


def test_missing_peft(bert, head, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"taskloom\[adapters\]"):
        train(bert, head, tmp_path, method="lora")


def test_data_digest_sees_order_labels_and_pixels():
    images = np.arange(8.0).reshape(2, 2, 2)
    digests = {
        data_digest((["a", "b"], [0, 1])),
        data_digest((["b", "a"], [0, 1])),
        data_digest((["a", "b"], [1, 0])),
        data_digest((images, [0, 1])),
        data_digest((images.astype(np.float32), [0, 1])),
        data_digest((images.reshape(2, 4), [0, 1])),
    }
    assert len(digests) == 6
    assert data_digest((images, np.array([0, 1]))) == data_digest((images.copy(), [0, 1]))
