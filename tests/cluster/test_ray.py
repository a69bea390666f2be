"""A Ray cluster of several worker processes, of which some are killed in the middle of their work."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import save_file

from taskloom import merge_files
from taskloom.algebra import Step, chain
from taskloom.cli.main import invoke
from taskloom.errors import MissingExtra, NumericalError, SourceUnreachable
from taskloom.merging.recipe import Recipe

ray_only = pytest.mark.filterwarnings("ignore")  # of ray, about itself
SHARD = 90_000  # three tensors


@pytest.fixture(scope="module")
def cluster():
    """Two machines of one processor each, and a head that does no work."""
    pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made, nodes
    made.shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b", "bad")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {f"layer.{n}.w": torch.randn(64, 100 + n, generator=generator) for n in range(12)}
        if name == "bad":
            tensors["layer.7.w"][0, 0] = float("inf")
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
    return folder


def deadly(graves):
    """Return a step that changes nothing and kills its process as often as graves are still empty."""

    def apply(stack, _):
        if stack.name == "layer.3.w":
            for grave in graves:
                if not os.path.exists(grave):
                    with open(grave, "w") as stream:
                        stream.write(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGKILL)
        return stack

    return Step("watched", apply)


def recipe(counting=(), writing=()):
    """TIES whose worker dies while it counts, and while it writes the last tensor of a shard."""
    ties = Recipe.of("ties", density=0.3, scope="model").chain
    steps = [deadly([str(grave) for grave in graves]) for graves in (counting, writing)]
    return Recipe("watched ties", {}, chain(steps[0], ties, steps[1]))


def merged(models, out, how, experts=("a", "b"), **options):
    sources = [models / name for name in experts]
    return merge_files(models / "base", sources, how, out, max_shard_bytes=SHARD, **options)


def record(folder):
    return json.loads((folder / "taskloom.json").read_text())


@pytest.mark.slow
@ray_only
def test_workers_that_are_killed_change_nothing(cluster, models, tmp_path):
    """One dies while it counts, so does its successor, and one when it has written half a shard."""
    graves = [tmp_path / f"grave{n}" for n in range(3)]
    report = merged(models, tmp_path / "out", recipe(graves[:2], graves[2:]), ray=cluster[0].address)
    dead = [grave.read_text() for grave in graves]
    assert len(set(dead)) == 3
    assert str(os.getpid()) not in dead
    alone = merged(models, tmp_path / "alone", recipe())
    assert report.digest == alone.digest
    ours, theirs = record(tmp_path / "out"), record(tmp_path / "alone")
    assert ours["statistics"] == theirs["statistics"]
    assert ours["inputs"] == theirs["inputs"]
    shards = sorted(path.name for path in (tmp_path / "alone").glob("*.safetensors"))
    assert len(shards) == 4
    for name in shards:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"]


@pytest.mark.slow
@ray_only
def test_a_machine_that_is_lost_changes_nothing(cluster, models, tmp_path):
    made, nodes = cluster
    lost = []

    def progress(*_):
        if not lost:
            import ray

            ours = ray.get_runtime_context().get_node_id()  # without it this process would end
            lost.append(next(node for node in nodes if node.node_id != ours))
            made.remove_node(lost[0], allow_graceful=False)

    report = merged(models, tmp_path / "out", "ties", density=0.3, ray=made.address, progress=progress)
    assert lost
    assert report.digest == merged(models, tmp_path / "alone", "ties", density=0.3).digest


@ray_only
def test_an_error_of_a_worker_is_the_error(cluster, models, tmp_path):
    with pytest.raises(NumericalError, match=r"layer\.7\.w.*bad"):
        merged(models, tmp_path / "out", "ties", ("a", "bad"), ray=cluster[0].address)
    assert not list(tmp_path.glob("out*"))


@ray_only
def test_a_mergekit_file_from_the_command_line(cluster, models, tmp_path, capsys):
    file = tmp_path / "merge.yaml"
    listed = "".join(f"- {{model: {models / name}, parameters: {{weight: 1}}}}\n" for name in "ab")
    file.write_text(f"merge_method: linear\nmodels:\n{listed}")
    words = ["--quiet", "merge", str(file), str(tmp_path / "out"), "--max-shard-size", "40KB"]
    assert invoke([*words, "--ray", cluster[0].address]) == 0
    assert "linear, 12 tensors" in capsys.readouterr().out
    assert invoke([*words[:3], str(tmp_path / "alone"), *words[4:]]) == 0
    digests = {record(tmp_path / name)["outputs"]["digest"] for name in ("out", "alone")}
    assert len(digests) == 1


@ray_only
def test_no_cluster_at_the_address(models, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(SourceUnreachable, match="the cluster cannot be reached"):
        merged(models, tmp_path / "out", "ties", ray="no such place")


def test_without_ray(models, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"taskloom\[ray\]"):
        merged(models, tmp_path / "out", "ties", ray="auto")
    assert not list(tmp_path.glob("out*"))


def test_adapters_are_not_merged_by_a_cluster(capsys):
    words = ["merge", "--base", "b", "--expert", "e", "--method", "average", "-o", "o"]
    assert invoke([*words, "--as-adapter", "--ray", "auto"]) == 2
    assert "not with --as-adapter" in capsys.readouterr().err
