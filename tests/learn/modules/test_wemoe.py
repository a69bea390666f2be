"""WEMoE: the card's numbers, per-example weights in plain torch, and what the gates learn."""

import pytest
import torch
from torch import nn

import taskloom
from taskloom.errors import PlanError
from taskloom.learn.modules.kit.descend import ModuleStopped
from taskloom.learn.modules.kit.hooks import Pass
from taskloom.learn.modules.kit.opening import fit_module, open_module
from taskloom.learn.modules.wemoe import MLP, gate_weights, mlps_of
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.store.memory import MemoryCheckpoint

from .small import Deep, inputs, problem, runs, state

FC = r"(blocks\.\d+)\.fc\d"


def arithmetic(on, scale=0.3):
    experts = {n: {k: c.read(k) for k in c.tensors} for n, c in on.experts.items()}
    base = {k: on.base.read(k) for k in on.base.tensors}
    return base, experts, taskloom.merge(base, experts, "task_arithmetic", scale=scale)


def test_card_7():
    h = torch.tensor([[[1.0, -1.0, 0.5], [0.0, 2.0, 0.5]]])
    gate = {"gate/m/b2": torch.tensor([0.3, 0.3]), "gate/m/w2": torch.zeros(2, 3)}
    gate |= {"gate/m/w1": torch.zeros(3, 3), "gate/m/b1": torch.zeros(3)}
    assert gate_weights(gate, "m", h, Pass())[0].tolist() == pytest.approx([0.3, 0.3])
    gate["gate/m/w1"] = torch.eye(3)
    gate["gate/m/w2"] = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.25, 0.0]])
    weights = gate_weights(gate, "m", h, Pass())[0]
    assert weights.tolist() == pytest.approx([0.55, 0.55])
    base = torch.tensor([[0.25, -0.125], [0.0, 0.125]])
    taus = torch.tensor([[[1.0, 0.25], [-1.0, -0.25]], [[-0.5, 1.0], [0.5, -1.0]]])
    made = base + torch.einsum("k,kij->ij", weights, taus)
    assert made.flatten().tolist() == pytest.approx([0.525, 0.5625, -0.275, -0.5625])
    mask = torch.tensor([[1, 0]])
    assert gate_weights(gate, "m", h, Pass(mask))[0].tolist() == pytest.approx([0.8, 0.3])


def mixture(base, experts, merged, gates, x):
    """Return logits of one example with weights of its own in the MLPs, in plain torch."""
    weights = dict(merged)
    h = x
    for k in range(2):
        w1, b1, w2, b2 = gates[k]
        mixed = (torch.relu(h @ w1.T + b1) @ w2.T + b2).mean((0, 1))
        for layer in ("fc1", "fc2"):
            for leaf in ("weight", "bias"):
                name = f"blocks.{k}.{layer}.{leaf}"
                taus = [e[name] - base[name] for e in experts.values()]
                weights[name] = base[name] + sum(w * t for w, t in zip(mixed, taus, strict=True))
        inner = torch.tanh(h @ weights[f"blocks.{k}.fc1.weight"].T + weights[f"blocks.{k}.fc1.bias"])
        h = h + inner @ weights[f"blocks.{k}.fc2.weight"].T + weights[f"blocks.{k}.fc2.bias"]
    return h.mean(1) @ weights["classifier.weight"].T + weights["classifier.bias"]


def test_weights_of_its_own_for_every_example():
    """The sum of outputs is the same as merging the MLP's weights for each example."""
    on = problem()
    base, experts, merged = arithmetic(on)
    fitted = fit_module("wemoe", on, merged, steps=3, learning_rate=0.05, mlp=FC, spread=0.3)
    gates = [[fitted.tensors[f"gate/blocks.{k}/{n}"] for n in ("w1", "b1", "w2", "b2")] for k in (0, 1)]
    net, x = Deep(), inputs(4, seed=7)
    net.load_state_dict(merged)
    with torch.no_grad():
        found = open_module(fitted, net)(x)  # one for all tasks
        for i in range(4):
            wanted = mixture(base, experts, merged, gates, x[i : i + 1])
            assert torch.allclose(found[i : i + 1], wanted, atol=1e-5)
        assert torch.equal(net(x), runs(net, merged, x))


@pytest.mark.parametrize("average", [False, True])
def test_the_first_steps_in_plain_torch(average):
    """Adam with a falling rate on the summed entropy, gates per example or per batch."""
    on = problem(n=4, size=4)
    base, experts, merged = arithmetic(on)
    fitted = fit_module(
        "wemoe", on, merged, steps=3, learning_rate=0.05, mlp=FC, spread=0.3, average=average
    )
    begin = fit_module("wemoe", on, merged, steps=0, mlp=FC, spread=0.3)
    gates = [
        [nn.Parameter(begin.tensors[f"gate/blocks.{k}/{n}"]) for n in ("w1", "b1", "w2", "b2")]
        for k in (0, 1)
    ]
    adam = torch.optim.Adam([p for gate in gates for p in gate], lr=0.05)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=3)
    for step in fitted.trace:
        total = 0.0
        for examples in on.batches.values():
            ((x, _),) = examples
            rows = [x] if average else x.split(1)
            p = torch.cat([mixture(base, experts, merged, gates, row) for row in rows]).softmax(1)
            total = total - (p * p.log()).sum(1).mean()
        assert step.loss == pytest.approx(float(total.detach()), rel=1e-4)
        adam.zero_grad()
        total.backward()
        adam.step()
        fall.step()
    for k, gate in enumerate(gates):
        for name, tensor in zip(("w1", "b1", "w2", "b2"), gate, strict=True):
            assert torch.allclose(fitted.tensors[f"gate/blocks.{k}/{name}"], tensor.detach(), atol=1e-4)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_merge_is_not_changed_at_first(layers):
    on = problem()
    _, _, merged = arithmetic(on)
    fitted = fit_module("wemoe", on, merged, steps=0, mlp=FC, spread=0.0, layers=layers)
    net, x = Deep(), inputs(5)
    net.load_state_dict(merged)
    assert torch.equal(open_module(fitted, net)(x), runs(net, merged, x))
    small = fit_module("wemoe", on, merged, steps=0, mlp=FC, layers=layers)
    assert torch.allclose(open_module(small, net)(x), runs(net, merged, x), atol=0.1)


def test_gates_tell_inputs_of_different_tasks_apart(tmp_path):
    """Two tasks on inputs of two kinds: predictions get surer, and come nearer to each own expert's."""
    net = Deep()
    base = state(net)
    on = problem(net=net, n=64, size=32)
    shift = {"mood": 2.0, "topic": -2.0}
    given = {t: Examples.of([(x + shift[t], None) for x, _ in e]) for t, e in on.batches.items()}
    on = problem(net=net, batches=given)
    _, _, merged = arithmetic(on)
    fitted = fit_module("wemoe", on, merged, steps=60, learning_rate=0.02, mlp=FC)
    assert fitted.trace[-1].loss < 0.8 * fitted.trace[0].loss
    assert fitted.said["objective"] == "entropy"
    net.load_state_dict(merged)
    opened = open_module(fitted.save(tmp_path / "moe"), net)
    weights = {}
    for task in on.tasks:
        seen = []
        opened.model.blocks[0].fc1.register_forward_pre_hook(
            lambda m, args, seen=seen: seen.append(args[0])
        )
        opened(inputs(8, seed=3) + shift[task])
        weights[task] = gate_weights(opened.fitted.tensors, "blocks.0", seen[0], Pass()).mean(0)
    assert float((weights["mood"] - weights["topic"]).abs().max()) > 0.05
    changes = sum(base[n].numel() for n in base if "fc" in n) * 2 * 4
    gates = sum(t.numel() * 4 for n, t in fitted.tensors.items() if n.startswith("gate"))
    assert fitted.bytes_stored == changes + gates
    assert fitted.said["bytes"] == str(fitted.bytes_stored)


def test_collapse_is_told():
    net = Deep()
    with torch.no_grad():
        net.classifier.bias[1] = 50.0
    on = problem(net=net)
    _, _, merged = arithmetic(on)
    assert fit_module("wemoe", on, merged, steps=0, mlp=FC).said["collapsed"] == "mood, topic"
    on = problem()
    said = fit_module("wemoe", on, arithmetic(on)[2], steps=0, mlp=FC).said
    assert "collapsed" not in said  # what is not so is not said


def test_where_the_mlps_of_transformers_are():
    import transformers

    small = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=20, **small))
    found = mlps_of(Probe.of_module(bert), MLP)
    assert found["encoder.layer.1"] == (
        "encoder.layer.1.intermediate.dense",
        "encoder.layer.1.output.dense",
    )
    assert len(found) == 2
    vit = transformers.ViTModel(
        transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **small)
    )
    assert sorted(map(len, mlps_of(Probe.of_module(vit), MLP).values())) == [2, 2]
    llama = transformers.LlamaModel(transformers.LlamaConfig(vocab_size=20, **small))
    assert sorted(map(len, mlps_of(Probe.of_module(llama), MLP).values())) == [3, 3]
    gpt2 = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=20))
    assert sorted(map(len, mlps_of(Probe.of_module(gpt2), MLP).values())) == [2, 2]


def test_matrices_the_other_way_round():
    """GPT-2 stores weights as (in, out)."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=8, n_layer=2, n_head=2, vocab_size=20, n_positions=8, num_labels=3, pad_token_id=0
    )
    net = transformers.GPT2ForSequenceClassification(config).eval()
    base = state(net)
    experts = {f"{t} expert": {n: x + 0.2 * torch.randn_like(x) for n, x in base.items()} for t in "ab"}
    ids = torch.randint(1, 20, (4, 6))
    given = {t: Examples.of([({"input_ids": ids}, None)]) for t in "ab"}
    on = Problem(
        MemoryCheckpoint(base),
        {n: MemoryCheckpoint(w, n) for n, w in experts.items()},
        {t: Probe.of_module(net) for t in "ab"},
        given,
    )
    merged = taskloom.merge(base, experts, "task_arithmetic", scale=0.3)
    fitted = fit_module("wemoe", on, merged, steps=0, layers=0)
    for name in fitted.tensors:
        if name.endswith("b2"):
            fitted.tensors[name].copy_(torch.tensor([1.0, 0.0]))
    made = {
        n: base[n] + (experts["a expert"][n] - base[n]) if ".mlp." in n else t for n, t in merged.items()
    }
    net.load_state_dict(merged)
    with torch.no_grad():
        found = open_module(fitted, net)(input_ids=ids).logits
        net.load_state_dict(made)
        assert torch.allclose(found, net(input_ids=ids).logits, atol=1e-5)


def test_bad_input():
    on = problem()
    _, _, merged = arithmetic(on)
    with pytest.raises(PlanError, match=r"option 'mlp' is .* no module of Deep is called so"):
        fit_module("wemoe", on, merged)
    with pytest.raises(PlanError, match="is a linear layer"):
        fit_module("wemoe", on, merged, mlp=r"blocks\.\d+")
    probes = {"mood": Probe.of_module(Deep()), "topic": Probe.of_module(Deep(blocks=2))}
    probes["topic"].module.blocks[1].fc3 = nn.Linear(2, 2)
    with pytest.raises(PlanError, match="different MLPs"):
        fit_module("wemoe", problem(probes=probes), merged, mlp=FC)
    broken = {n: t * torch.nan for n, t in merged.items()}
    with pytest.raises(ModuleStopped, match="the loss of task 'mood' is nan at step 1"):
        fit_module("wemoe", on, broken, mlp=FC)
    with pytest.raises(PlanError, match="'layers' is 3"):
        fit_module("wemoe", on, merged, mlp=FC, layers=3)
