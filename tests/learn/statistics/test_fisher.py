"""The diagonal Fisher: card 20 and the definition."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from taskloom.errors import DataError, NumericalError, PlanError
from taskloom.learn.collect import collect

from .small import Logistic, Net, batches, setting

X = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])


def test_card_20_a_logistic_model():
    found = collect("fisher", setting(Logistic([0.5, -0.25]), [(X, None)]))
    assert found.tensors()["w"].tolist() == pytest.approx([0.238546, 0.528386], abs=1e-6)
    assert float(found.table["norm"]) == pytest.approx((0.238546**2 + 0.528386**2) ** 0.5, abs=1e-6)


def restated(module, x, expected):
    """Example by example, class by class, with backward()."""
    total = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for row, y in zip(x, expected, strict=True):
        chances = torch.softmax(module(row[None])[0], 0).detach()
        for label in range(len(chances)) if y is None else [int(y)]:
            module.zero_grad()
            cross_entropy(module(row[None]), torch.tensor([label])).backward()
            share = chances[label] if y is None else 1.0
            for name, p in module.named_parameters():
                if p.grad is not None:
                    total[name] += share * p.grad**2
    return {name: t / len(x) for name, t in total.items()}


@pytest.mark.parametrize("labels", ["exact", "given"])
def test_the_definition(labels):
    module = Net()
    given = batches()
    x, y = (torch.cat(parts) for parts in zip(*given, strict=True))
    expected = restated(module, x, [None] * len(x) if labels == "exact" else y)
    found = collect("fisher", setting(module, given), labels=labels).tensors()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-7, rtol=1e-4)
    assert found["unused"].tolist() == [0.0, 0.0]


def test_batches_do_not_matter_and_equal_calls_give_equal_bytes():
    module = Net()
    one = collect("fisher", setting(module, batches(size=4)))
    two = collect("fisher", setting(module, batches(size=3)))
    assert one.checkpoint.digest() == two.checkpoint.digest()


def test_sampled_labels_follow_the_seed_and_tend_to_the_expectation():
    module = Logistic([0.5, -0.25])
    many = [(X.repeat(400, 1), None)]
    first, again = (collect("fisher", setting(module, many), labels="sampled") for _ in range(2))
    assert first.checkpoint.digest() == again.checkpoint.digest()
    assert first.tensors()["w"].tolist() == pytest.approx([0.238546, 0.528386], rel=0.15)
    other = collect("fisher", setting(module, many), labels="sampled", seed=1)
    assert other.checkpoint.digest() != first.checkpoint.digest()


def test_the_header_says_where_it_comes_from(tmp_path):
    from taskloom.store.memory import MemoryCheckpoint
    from taskloom.store.statistic import open_statistic

    module, told = Net(), []
    found = collect("fisher", setting(module, progress=lambda *args: told.append(args)))
    read = open_statistic(found.save(tmp_path / "f.safetensors"))
    assert read.kind == "fisher"
    assert read.table["model_digest"] == MemoryCheckpoint(module).digest()
    assert read.table["examples"] == "10"
    assert read.table["options"] == '{"labels": "exact", "seed": 0}'
    assert told[-1] == ("fisher", 10, 10)
    assert not module.layers[0].weight.grad


def test_the_module_stays_as_it_was():
    module = Net().train()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    collect("fisher", setting(module))
    assert module.training
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())


def test_bad_input():
    with pytest.raises(DataError, match="needs labels"):
        collect("fisher", setting(Net(), [(torch.ones(2, 4), None)]), labels="given")
    with pytest.raises(DataError, match="no examples"):
        collect("fisher", setting(Net(), []))
    with pytest.raises(NumericalError, match="holds NaN or infinity"):
        collect("fisher", setting(Net(), [(torch.full((2, 4), torch.inf), None)]))
    with pytest.raises(PlanError, match="unknown option 'label'"):
        collect("fisher", setting(Net()), label="exact")
