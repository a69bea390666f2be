"""Twin-Merging's router: the card's numbers, experts given back, and inputs sent where they belong."""

import pytest
import torch

import taskloom
from taskloom.errors import CheckpointError, IntegrityError, NumericalError, PlanError
from taskloom.learn.modules.kit.descend import ModuleStopped
from taskloom.learn.modules.kit.exclusive import Exclusives
from taskloom.learn.modules.kit.opening import fit_module, open_module
from taskloom.learn.modules.twin_router import Routed, make_router
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.merging.restore import open_task
from taskloom.models.encoder import Encoder
from taskloom.store.memory import MemoryCheckpoint
from tiny_models import texts, tiny_bert

from .small import Deep, averaged, inputs, moved, problem, runs, state
from .test_opening import head


def states(on):
    experts = {n: {k: c.read(k) for k in c.tensors} for n, c in on.experts.items()}
    return {k: on.base.read(k) for k in on.base.tensors}, experts


def parts_of(on, folder, **options):
    base, experts = states(on)
    taskloom.merge_parts(base, experts, "twin_merging", folder, **options)
    return folder, experts


def apart(on, shift=1.5):
    """Return the problem with inputs of its tasks on two sides."""
    sides = dict(zip(on.tasks, (shift, -shift), strict=True))
    return {t: Examples.of([(x + sides[t], None) for x, _ in e]) for t, e in on.batches.items()}


def test_card_8(tmp_path):
    theta = torch.tensor([[0.4, 0.25], [-0.15, -0.25]])
    tasks = [
        torch.tensor([[0.85, -0.125], [-0.85, 0.125]]),
        torch.tensor([[-0.65, 0.625], [0.65, -0.625]]),
    ]
    weights = torch.softmax(torch.tensor([2.0, 0.5]), 0)
    assert weights.tolist() == pytest.approx([0.817574, 0.182426], abs=1e-6)
    base = {"w": torch.tensor([[0.25, -0.125], [0.0, 0.125]])}
    experts = {f"e{k}": {"w": theta + v} for k, v in enumerate(tasks)}
    taskloom.merge_parts(base, experts, "twin_merging", tmp_path / "parts", share=1.0, scale=0.3)
    parts = Exclusives(tmp_path / "parts", ("e0", "e1"))
    found = parts.added("w", theta, weights)
    wanted = [[0.976362, 0.261819], [-0.726362, -0.261819]]
    assert torch.allclose(found, torch.tensor(wanted), atol=1e-4)
    assert torch.allclose(
        parts.added("w", theta, torch.tensor([1.0, 0.0])), experts["e0"]["w"], atol=1e-5
    )


@pytest.mark.parametrize(
    "options", [{"share": 0.5}, {"form": "sparse", "share": 0.3}, {"skip": ["fc2"]}]
)
def test_one_part_in_full_is_the_restored_model_of_the_task(tmp_path, options):
    on = problem()
    folder, _ = parts_of(on, tmp_path / "parts", **options)
    parts = Exclusives(folder, tuple(on.experts))
    shared = taskloom.merge(*states(on), "twin_merging")
    for k, name in enumerate(on.experts):
        restored = open_task(folder, name)
        row = torch.eye(2)[k]
        for tensor, value in shared.items():
            assert torch.allclose(parts.added(tensor, value, row), restored.read(tensor), atol=1e-5)


def test_inputs_are_sent_to_their_task(tmp_path):
    """With whole parts and a sure router every input gets its own expert; no task is told."""
    on = problem(n=64, size=16)
    on = problem(batches=apart(on))
    folder, experts = parts_of(on, tmp_path / "parts", share=1.0)
    fitted = fit_module("twin_router", on, folder, epochs=60, learning_rate=0.02, batch_size=32)
    assert float(fitted.said["routed rightly"]) > 0.98
    assert fitted.said["labels"] == "tasks only"
    assert fitted.trace[-1].loss < 0.3 * fitted.trace[0].loss
    net = Deep()
    net.load_state_dict(
        {k: taskloom.merge(state(Deep()), experts, "twin_merging")[k] for k in state(net)}
    )
    before = {name: t.clone() for name, t in net.state_dict().items()}
    where = fitted.save(tmp_path / "router")
    opened = open_module(where, net)
    x = torch.cat([inputs(3, seed=40) + 1.5, inputs(3, seed=41) - 1.5])
    with torch.no_grad():
        found = opened(x)
    weights = Routed(opened.fitted).weights(net, (x,), {})
    assert torch.allclose(weights.sum(1), torch.ones(6))
    assert weights.argmax(1).tolist() == [0, 0, 0, 1, 1, 1]
    shared = runs(net, before, x)
    for rows, name in ((slice(0, 3), "mood expert"), (slice(3, 6), "topic expert")):
        wanted = runs(net, experts[name], x[rows])
        assert float((found[rows] - wanted).abs().mean()) < 0.3 * float(
            (shared[rows] - wanted).abs().mean()
        )
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    small = sum(t.numel() * t.element_size() for t in fitted.tensors.values())
    files = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    assert fitted.bytes_stored == small + files
    assert (where / "parts" / "parts.json").is_file()
    with pytest.raises(PlanError, match="runs the model anew for every input"), opened.on():
        pass


def test_a_one_hot_router_gives_the_expert_back(tmp_path):
    on = problem()
    folder, experts = parts_of(on, tmp_path / "parts", share=1.0)
    fitted = fit_module("twin_router", on, folder, epochs=0)
    fitted.tensors["8.weight"].zero_()
    fitted.tensors["8.bias"].copy_(torch.tensor([-200.0, 200.0]))
    net = Deep()
    net.load_state_dict(taskloom.merge(state(Deep()), experts, "twin_merging"))
    with torch.no_grad():
        found = open_module(fitted, net)(inputs(3))
    assert torch.allclose(found, runs(net, experts["topic expert"], inputs(3)), atol=1e-5)


def test_the_router_in_plain_torch():
    """Eval mode: linear, normalised by running numbers, leaky, twice, linear."""
    torch.manual_seed(0)
    router = make_router(3, 2, 0.5)
    router.train()
    router(torch.randn(8, 3))
    router.eval()
    x, s = torch.randn(4, 3), router.state_dict()
    h = x
    for k, n in ((0, 1), (4, 5)):
        h = h @ s[f"{k}.weight"].T + s[f"{k}.bias"]
        h = (h - s[f"{n}.running_mean"]) / (s[f"{n}.running_var"] + 1e-5).sqrt()
        h = h * s[f"{n}.weight"] + s[f"{n}.bias"]
        h = torch.where(h > 0, h, 0.01 * h)
    wanted = h @ s["8.weight"].T + s["8.bias"]
    assert wanted.shape == (4, 2)
    assert s["0.weight"].shape == (6, 3)
    assert torch.allclose(router(x), wanted, atol=1e-5)


def test_equal_calls_and_the_best_epoch(tmp_path):
    on = problem()
    folder, _ = parts_of(on, tmp_path / "parts")
    on = problem(batches=apart(on), validation=apart(on))
    before = torch.get_rng_state()
    one, two = (fit_module("twin_router", on, folder, epochs=4, learning_rate=0.01) for _ in range(2))
    assert one.digest() == two.digest()
    assert 1 <= int(one.said["epoch kept"]) <= 4
    assert one.said["validation"] == one.said["routed rightly"]
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's draws are changed


def test_a_plain_bert(tmp_path):
    from transformers import AutoModel

    folder = tiny_bert(tmp_path / "base")
    encoder = Encoder.load(folder)
    base = {name: t.clone() for name, t in encoder.state_dict().items()}
    experts = {f"{t} expert": moved(base, k, 0.05) for k, t in enumerate(("mood", "topic"))}
    given = texts(16)[0]
    data = {"mood": given[::2], "topic": given[1::2]}
    on = Problem(
        MemoryCheckpoint(base),
        {name: MemoryCheckpoint(w, name) for name, w in experts.items()},
        {task: Probe.of_encoder(encoder, head(task, 16, 3, 0)) for task in data},
        {task: Examples.of([(encoder.batch(x), None)]) for task, x in data.items()},
        own={task: f"{task} expert" for task in data},
    )
    taskloom.merge_parts(folder, experts, "twin_merging", tmp_path / "parts", share=1.0)
    fitted = fit_module("twin_router", on, tmp_path / "parts", epochs=3)
    where = fitted.save(tmp_path / "router")
    model = AutoModel.from_pretrained(where / "parts").eval()
    opened = open_module(where, model)
    batch = encoder.batch(given[:3])
    with torch.no_grad():
        found = opened(**batch)
        weights = Routed(opened.fitted).weights(model, (), batch)
        for i, row in enumerate(weights):
            taus = {n: sum(w * e[n] for w, e in zip(row, experts.values(), strict=True)) for n in base}
            wanted = torch.func.functional_call(
                model, taus, (), {n: t[i : i + 1] for n, t in batch.items()}
            )
            assert torch.allclose(found.last_hidden_state[i], wanted.last_hidden_state[0], atol=1e-4)
    (where / "parts" / "task-00001.safetensors").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"task-00001\.safetensors is not what was written"):
        open_module(where, model)


def test_bad_input(tmp_path):
    on = problem()
    folder, experts = parts_of(on, tmp_path / "parts")
    with pytest.raises(CheckpointError, match="expected the folder of a shared model"):
        fit_module("twin_router", on, averaged(on))
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"holds no exclusive parts of tasks\. Make them with"):
        fit_module("twin_router", on, plain)
    with pytest.raises(PlanError, match="'topic' has no expert of its own"):
        fit_module("twin_router", problem(own={"mood": "mood expert"}), folder)
    other = {"mood expert": experts["mood expert"], "third": experts["topic expert"]}
    taskloom.merge_parts(
        {k: on.base.read(k) for k in on.base.tensors}, other, "twin_merging", tmp_path / "o"
    )
    with pytest.raises(PlanError, match="'topic': the parts hold nothing of its expert 'topic expert'"):
        fit_module("twin_router", on, tmp_path / "o")
    nan = {t: Examples.of([(x * torch.nan, None) for x, _ in e]) for t, e in on.batches.items()}
    with pytest.raises(NumericalError, match=r"'mood': .* computes features with NaN"):
        fit_module("twin_router", problem(batches=nan), folder)
    with pytest.raises(ModuleStopped, match="is nan at step"):
        fit_module("twin_router", on, folder, learning_rate=1e30, epochs=5)
    opened = open_module(fit_module("twin_router", on, folder, epochs=0), torch.nn.Linear(2, 2))
    with pytest.raises(PlanError, match=r"'blocks\.1', which Linear does not have"):
        opened(torch.zeros(1, 2))
