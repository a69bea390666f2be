"""The parts of a build that other processes are given, done here, without a cluster."""

import errno
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from taskloom import merge_files
from taskloom.errors import NumericalError, OutputError, PlanError, UnknownName
from taskloom.merging import crew as crews
from taskloom.merging.crew import Fault, attempt, binned, describe, measure, measured, write_part
from taskloom.merging.engine import Engine, Options
from taskloom.merging.plan import plan_program
from taskloom.merging.program import program_of
from taskloom.merging.recipe import Recipe
from taskloom.merging.target_directory import PARTS, SharedFolder
from taskloom.store.pool import open_pool


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {f"layer.{n}.w": torch.randn(24, 8 + n, generator=generator) for n in range(8)}
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
    return folder


def merged(models, out, **options):
    experts = [models / "a", models / "b"]
    recipe = options.pop("recipe", None) or Recipe.of("ties", density=0.3, scope="model")
    return merge_files(models / "base", experts, recipe, out, max_shard_bytes=2000, **options)


def program(models, **options):
    recipe = Recipe.of("ties", density=0.3, scope="model")
    pool = open_pool(models / "base", [models / "a", models / "b"])
    return plan_program(program_of(pool, recipe.chain), **options)


class Neighbour:
    """A crew that pickles nothing but otherwise goes the way of a cluster: by `attempt`, in bins."""

    def __init__(self, bins=3, twice=False):
        self.bins, self.twice = bins, twice

    def begin(self, engine, landing, key):
        self.engine = engine
        self.job = describe(engine, pickle.loads(pickle.dumps(landing)), key, threads=1)

    def spread(self, function, tasks):
        for number, arguments in reversed(list(enumerate(tasks))):
            found = attempt(function, self.job, *arguments)
            if self.twice:  # a task that was believed lost
                found = attempt(function, self.job, *arguments)
            if isinstance(found, Fault):
                raise found.error()
            yield number, found

    def statistics(self, group):
        return measured(self.engine, group, self.spread, self.bins)

    def shards(self, todo, statistics):
        names = list(todo)
        tasks = [(shard, todo[shard], statistics) for shard in names]
        for number, part in self.spread(write_part, tasks):
            yield names[number], part


@pytest.fixture
def by_crew(monkeypatch):
    """Let ``ray=`` name a crew of ours."""
    import contextlib

    monkeypatch.setattr("taskloom.merging.api._crew", lambda crew: contextlib.nullcontext(crew))


def record(folder):
    return json.loads((folder / "taskloom.json").read_text())


@pytest.mark.parametrize("crew", [Neighbour(1), Neighbour(3), Neighbour(50), Neighbour(2, twice=True)])
@pytest.mark.usefixtures("by_crew")
def test_the_bytes_and_the_record_are_those_of_one_process(models, tmp_path, crew):
    alone = merged(models, tmp_path / "alone")
    report = merged(models, tmp_path / "crew", ray=crew)
    assert report.digest == alone.digest
    ours, theirs = record(tmp_path / "crew"), record(tmp_path / "alone")
    for key in ("inputs", "statistics", "recipe_hash"):
        assert ours[key] == theirs[key]
    shards = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "crew").iterdir()) == shards
    for name in (name for name in shards if name.endswith(".safetensors")):
        assert (tmp_path / "crew" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.usefixtures("by_crew")
def test_errors_of_others_are_raised_here(models, tmp_path):
    (tmp_path / "bad").mkdir()
    tensors = {f"layer.{n}.w": torch.ones(24, 8 + n) for n in range(8)}
    tensors["layer.5.w"][3, 3] = float("nan")
    save_file(tensors, tmp_path / "bad" / "model.safetensors", {"format": "pt"})
    with pytest.raises(NumericalError, match=r"layer\.5\.w"):
        merge_files(
            models / "base", [models / "a", tmp_path / "bad"], "ties", tmp_path / "o", ray=Neighbour()
        )
    assert not list(tmp_path.glob("o*"))


def test_a_lost_crew_leaves_what_it_finished(models, tmp_path, monkeypatch):
    import contextlib

    class Dies(Neighbour):
        def shards(self, todo, statistics):
            for number, found in enumerate(super().shards(todo, statistics)):
                if number == 2:
                    raise crews.CrewLost("the cluster is gone")
                yield found

    monkeypatch.setattr("taskloom.merging.api._crew", lambda crew: contextlib.nullcontext(crew))
    with pytest.raises(OutputError, match="gone"):
        merged(models, tmp_path / "out", ray=Dies())
    assert not (tmp_path / "out").exists()
    report = merged(models, tmp_path / "out")
    assert record(tmp_path / "out")["resumed_shards"] == 2
    assert report.digest == merged(models, tmp_path / "alone").digest


def job_of(models, folder, **changes):
    engine = Engine(program(models), Options())
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / PARTS).mkdir(exist_ok=True)
    job = describe(engine, SharedFolder(folder), "key", threads=1)
    return crews.replace(job, **changes)


def test_a_machine_that_does_not_share_the_folder_or_the_version(models, tmp_path):
    job = job_of(models, tmp_path / "w", landing=SharedFolder(tmp_path / "elsewhere"))
    fault = attempt(write_part, job, "model.safetensors", ["layer.0.w"], {})
    with pytest.raises(OutputError, match=r"does not see .*elsewhere"):
        raise fault.error()
    job = job_of(models, tmp_path / "w", versions=("0.0.1", "abacus"))
    with pytest.raises(PlanError, match=r"begun by 0\.0\.1 on abacus"):
        raise attempt(write_part, job, "model.safetensors", ["layer.0.w"], {}).error()


def test_a_failing_shard_leaves_nothing(models, tmp_path, monkeypatch):
    job = job_of(models, tmp_path / "w")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(crews.SafetensorsWriter, "write_slice", full)
    with pytest.raises(OutputError, match="full"):
        raise attempt(write_part, job, "model.safetensors", ["layer.0.w"], {0: measure_all(job)}).error()
    assert not [path for path in (tmp_path / "w").rglob("*") if path.is_file()]


def measure_all(job):
    with Engine(job.plan, job.options) as engine:
        return engine.statistics(*job.plan.program.groups[0])


def test_weights_in_memory_are_refused(models, tmp_path):
    base = {"w": torch.ones(3)}
    pool = open_pool(base, [{"w": torch.zeros(3)}])
    engine = Engine(plan_program(program_of(pool, Recipe.of("task_arithmetic").chain)), Options())
    with pytest.raises(PlanError, match="the weights are in memory"):
        describe(engine, SharedFolder(tmp_path), "key", threads=1)


def test_faults_keep_kind_and_words():
    error = UnknownName("method", "tise", ["ties"])
    found = pickle.loads(pickle.dumps(Fault(type(error), str(error)))).error()
    assert type(found) is UnknownName
    assert str(found) == str(error)
    assert found.exit_code == error.exit_code


def test_bins_hold_every_tensor_once(models):
    outputs = program(models).program.outputs
    for bins in (1, 2, 5, 100):
        found = binned(outputs, bins)
        assert sorted(name for part in found for name in part) == sorted(o.name for o in outputs)
        assert len(found) == min(bins, len(outputs))
        sizes = [sum(o.info.nbytes for o in outputs if o.name in part) for part in found]
        assert max(sizes) <= min(sizes) + max(o.info.nbytes for o in outputs)
    assert binned(outputs, 1)[0] == [o.name for o in outputs]  # in order, for measures without join


def test_a_share_of_a_measure_counts_its_tensors(models, tmp_path):
    job = job_of(models, tmp_path / "w")
    step = job.plan.program.groups[0][0].steps[0]
    started = step.measure.start(0, None)
    found = measure(job, 0, ["layer.2.w"], 0, 0, started, {})
    assert found.totals.tolist() == [24 * 10] * 2
