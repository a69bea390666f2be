"""A Ray cluster of several worker processes, of which some are killed in the middle of their work."""

import json
import os
import signal
import subprocess
import sys
import tempfile

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


# ---- without a shared directory


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """A cluster that knows a store, and the store."""
    pytest.importorskip("ray", reason="ray is not installed")
    import fsspec
    from ray.cluster_utils import Cluster

    from bucket import Bucket, BucketFileSystem, package

    folder = tmp_path_factory.mktemp("far")
    fsspec.register_implementation("bucket", BucketFileSystem, clobber=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package(folder / "site")))
        patch.setenv("FSSPEC_BUCKET_ROOT", str(folder / "store"))
        patch.setenv(
            "RAY_TMPDIR", tempfile.gettempdir()
        )  # of ray itself: names of its sockets are short
        (folder / "temporary").mkdir()
        patch.setenv("TMPDIR", str(folder / "temporary"))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made, Bucket(folder / "store"), folder / "temporary"
        made.shutdown()


@pytest.mark.slow
@ray_only
def test_inputs_and_output_in_a_store(far, models, tmp_path):
    """Two workers die, one while it counts and one with half a shard written; nothing is shared."""
    made, store, temporary = far
    base, *experts = (store.upload(models / name, f"b/{name}") for name in ("base", "a", "b"))
    graves = [tmp_path / f"grave{n}" for n in range(2)]
    how = recipe(graves[:1], graves[1:])
    report = merge_files(
        base, experts, how, "bucket://b/out", max_shard_bytes=SHARD, ray=made.address, threads=1
    )
    assert len({grave.read_text() for grave in graves}) == 2
    assert report.digest == merged(models, tmp_path / "alone", recipe()).digest
    found = store.below("b/out")
    shards = sorted((tmp_path / "alone").glob("*.safetensors"))
    assert len(shards) == 4
    for path in shards:
        assert found[path.name] == path.read_bytes()
    assert store.below("b/out.partial") == {}
    assert not list(temporary.glob("taskloom-scratch-*/*")), "the shard of the dead worker is gone"


DRIVER = """
import os, signal, sys
from taskloom import merge_files
def progress(label, done, total):
    if done > 6:
        os.kill(os.getpid(), signal.SIGKILL)
folder, address, out, size = sys.argv[1:]
merge_files(f"{folder}/base", [f"{folder}/a", f"{folder}/b"], "ties", out, density=0.3,
            scope="model", max_shard_bytes=int(size), ray=address, threads=1, progress=progress)
"""


@pytest.mark.slow
@ray_only
def test_the_driver_is_killed_and_one_process_goes_on(far, models, tmp_path):
    made, store, _ = far
    words = [sys.executable, "-c", DRIVER, str(models), made.address, "bucket://b/deep/out", str(SHARD)]
    killed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert store.below("b/deep/out") == {}
    done = len(json.loads(store.below("b/deep/out.partial")["journal.json"])["shards"])
    assert 1 <= done < 4, "at most those are made again that were under way"
    options = {"density": 0.3, "scope": "model"}
    report = merged(models, "bucket://b/deep/out", "ties", **options)
    assert report.digest == merged(models, tmp_path / "alone", "ties", **options).digest
    found = json.loads(store.below("b/deep/out")["taskloom.json"])
    assert found["resumed_shards"] == done
    assert found["outputs"]["digest"] == report.digest
    assert store.below("b/deep/out.partial") == {}
