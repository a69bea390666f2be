"""Outputs in an object store: the bytes of a directory, whole or nothing, whoever dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save_file

from bucket import Bucket, BucketFileSystem, package
from taskloom import explain, merge_files, verify
from taskloom.cli.main import invoke
from taskloom.errors import CheckpointError, IntegrityError, NumericalError, OutputError
from taskloom.merging.target_store import MARKS
from taskloom.store import lease
from taskloom.store.objects import Objects, StoreLost
from taskloom.store.open import open_checkpoint

SHARD = 1500  # bytes: six shards
URL = "bucket://b/deep/out"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b", "bad")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {f"layer.{n}.w": torch.randn(16, 20 + n, generator=generator) for n in range(6)}
        if name == "bad":
            tensors["layer.4.w"][0, 0] = float("nan")
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text('{"model_type": "bert"}')
        (folder / name / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store, and a folder for temporary files that must be empty in the end."""
    fsspec.register_implementation("bucket", BucketFileSystem, clobber=True)
    made = Bucket(tmp_path / "store")
    monkeypatch.setenv("FSSPEC_BUCKET_ROOT", str(made.root))
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield made
    assert not list(scratch.iterdir())


def merged(models, out, experts=("a", "b"), **options):
    options = {"threads": 1, "max_shard_bytes": SHARD, "density": 0.5, "scope": "model"} | options
    return merge_files(models / "base", [models / name for name in experts], "ties", out, **options)


@pytest.fixture(scope="module")
def wanted(models, tmp_path_factory):
    """The files of the same merge into a directory."""
    folder = tmp_path_factory.mktemp("wanted") / "out"
    merged(models, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def compare(found, wanted):
    """Hold objects against files; of the record what is the same for every run."""
    assert set(found) == set(wanted)
    for name in set(wanted) - {"taskloom.json"}:
        assert found[name] == wanted[name], name
    ours, theirs = (json.loads(each["taskloom.json"]) for each in (found, wanted))
    for key in ("seconds", "peak_memory_bytes", "resumed_shards", "threads", "workers"):
        ours.pop(key), theirs.pop(key)
    assert ours == theirs


def journal(store):
    data = store.objects.get("b/deep/out.partial/journal.json")
    return json.loads(data) if data else {"shards": {}}


def loads(url):
    try:
        open_checkpoint(url)
    except CheckpointError:
        return False
    return True


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"max_shard_bytes": 10**9}])
def test_the_objects_are_the_files_of_a_directory(models, store, wanted, tmp_path, options):
    if "max_shard_bytes" in options:
        merged(models, tmp_path / "out", **options)
        wanted = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    report = merged(models, URL, **options)
    assert report.path == URL
    assert report.digest == json.loads(wanted["taskloom.json"])["outputs"]["digest"]
    compare(store.below("b/deep/out"), wanted)
    assert store.below("b/deep/out.partial") == {}


def test_a_store_in_memory(models, store, wanted):
    merged(models, "memory://b/out")
    found = fsspec.filesystem("memory")
    assert sorted(found.find("/")) == sorted(f"/b/out/{name}" for name in wanted)
    compare({name: found.cat_file(f"/b/out/{name}") for name in wanted}, wanted)


def test_a_file_address_is_a_directory(models, store, wanted, tmp_path):
    report = merged(models, f"file://{tmp_path}/out")
    assert report.path == tmp_path / "out"
    compare({path.name: path.read_bytes() for path in report.path.iterdir()}, wanted)


def test_nothing_looks_finished_before_it_is(models, store):
    merged(models, URL)
    changes = [line for line in store.log if not line.startswith("list")]
    placed = [line.split()[1] for line in changes if "b/deep/out/" in line]
    first = next(k for k, line in enumerate(changes) if "b/deep/out/" in line)
    assert sum("out.partial/model/" in line for line in changes[:first]) == 6, "all shards are there"
    assert [name.rpartition("/")[2] for name in placed[-3:]] == [
        "taskloom.json",
        "config.json",
        "model.safetensors.index.json",
    ]


def test_inputs_and_output_in_a_store(models, store, wanted, monkeypatch):
    base, a, b = (store.upload(models / name, f"b/{name}") for name in ("base", "a", "b"))
    options = {"max_shard_bytes": SHARD, "density": 0.5, "scope": "model"}
    report = merge_files(base, [a, b], "ties", URL, **options)
    assert report.digest == json.loads(wanted["taskloom.json"])["outputs"]["digest"]
    found = store.below("b/deep/out")
    for name in (name for name in wanted if name.endswith(".safetensors")):
        assert found[name] == wanted[name]


NURSERY = """
import json, os, signal, sys, tempfile
import fsspec, torch
import taskloom.merging.engine, taskloom.merging.target_store
from taskloom import merge_files
count = 0
def merge(at, folder, url, workers, overwrite, environment):
    os.environ.update(environment)
    tempfile.tempdir = None
    def progress(label, done, total):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
    merge_files(f"{folder}/base", [f"{folder}/a", f"{folder}/b"], "ties", url, threads=1,
                max_shard_bytes=1500, density=0.5, scope="model", progress=progress,
                workers=workers, overwrite=overwrite)
with tempfile.TemporaryDirectory() as out:  # so that the kernels are there
    merge(0, sys.argv[1], f"{out}/out", 1, False, {})
count = 0
for line in sys.stdin:
    process = os.fork()
    if not process:
        merge(**json.loads(line))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def nursery(models, tmp_path_factory):
    """A process that has everything loaded, and forks one that merges for every line it is given."""
    environment = os.environ | {"PYTHONPATH": str(package(tmp_path_factory.mktemp("nursery") / "site"))}
    words = [sys.executable, "-c", NURSERY, str(models)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, text=True) as found:
        yield found
        found.stdin.close()


@pytest.fixture
def killed(nursery, models, store):
    """Merge in a process that is killed at a tick of its progress, or by a fault of the store."""

    def call(at=0, workers=1, *, overwrite=False):
        names = ("FSSPEC_BUCKET_ROOT", "TASKLOOM_CACHE")
        environment = {name: os.environ[name] for name in names} | {"TMPDIR": tempfile.gettempdir()}
        asked = {"at": at, "folder": str(models), "url": URL, "workers": workers}
        asked |= {"overwrite": overwrite, "environment": environment}
        print(json.dumps(asked), file=nursery.stdin, flush=True)
        assert int(nursery.stdout.readline()) == -signal.SIGKILL

    return call


@pytest.mark.parametrize(("at", "workers"), [(2, 1), (15, 1), (16, 2)])
def test_killed_and_continued(models, store, wanted, killed, at, workers):
    killed(at, workers)
    assert store.below("b/deep/out") == {}
    done = journal(store)["shards"]
    assert len(done) == {2: 0, 15: 2, 16: 3}[at]
    merged(models, URL)
    compare(store.below("b/deep/out"), wanted)
    record = json.loads(store.below("b/deep/out")["taskloom.json"])
    assert record["resumed_shards"] == len(done), "at most the shard in flight is made again"
    assert store.below("b/deep/out.partial") == {}


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("remove", "out/model-00002"),
        ("copy", "out/model-00003"),
        ("put", "out/config"),
        ("put", "index"),
    ],
)
def test_killed_while_the_new_takes_the_place_of_the_old(models, store, wanted, killed, word, name):
    merged(models, URL, density=0.9)
    old = store.below("b/deep/out")
    store.fault("kill", word, name)
    killed(overwrite=True)
    found = store.below("b/deep/out")
    assert found != old
    assert not loads(URL), "neither the old nor the new"
    merged(models, URL)  # it was allowed to overwrite, and goes on
    compare(store.below("b/deep/out"), wanted)
    assert json.loads(store.below("b/deep/out")["taskloom.json"])["resumed_shards"] == 6
    assert store.below("b/deep/out.partial") == {}


def test_killed_when_all_was_done(models, store, wanted, killed):
    """What was in place is whole and is not touched; what is left beside it does not matter."""
    store.fault("kill", "remove", "out.partial/journal")
    killed()
    compare(store.below("b/deep/out"), wanted)
    with pytest.raises(OutputError, match="exists and is not empty"):
        merged(models, URL)
    compare(store.below("b/deep/out"), wanted)
    merged(models, URL, overwrite=True, density=0.4)
    assert store.below("b/deep/out.partial") == {}


def test_thrown_away_in_the_middle_of_an_exchange(models, store, wanted, killed):
    store.fault("kill", "copy", "out/model-00003")
    killed()
    with pytest.raises(OutputError, match="another recipe"):
        merged(models, URL, density=0.4)
    with pytest.raises(OutputError, match="exists and is not empty"):
        merged(models, URL, density=0.4, discard=True)
    merged(models, URL, overwrite=True)
    compare(store.below("b/deep/out"), wanted)


def test_the_old_one_survives_until_the_new_one_is_whole(models, store, wanted):
    merged(models, URL, density=0.9)
    old = store.below("b/deep/out")
    with pytest.raises(OutputError, match=r"bucket://b/deep/out exists.*--force"):
        merged(models, URL)
    seen = []

    def progress(*_):
        seen.append(store.below("b/deep/out") == old and loads(URL))

    with pytest.raises(NumericalError, match="'bad'"):
        merged(models, URL, ("a", "bad"), overwrite=True, progress=progress)
    merged(models, URL, overwrite=True, progress=progress, max_shard_bytes=10**9)
    assert all(seen)
    assert sorted(n for n in store.below("b/deep/out") if "model" in n) == ["model.safetensors"]


def test_errors_of_the_input_leave_nothing(models, store):
    with pytest.raises(NumericalError, match=r"layer\.4\.w"):
        merged(models, URL, ("a", "bad"))
    assert store.objects == {}


def test_ctrl_c_says_where_it_goes_on(models, store, wanted):
    calls = []

    def progress(*_):
        calls.append(True)
        if len(calls) == 15:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"kept in bucket://b/deep/out\.partial: the same"):
        merged(models, URL, progress=progress)
    assert "b/deep/out.partial/lock.json" not in store.objects
    merged(models, URL)
    compare(store.below("b/deep/out"), wanted)
    with pytest.raises(KeyboardInterrupt):
        merged(models, f"{URL}2", progress=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert store.below("b/deep/out2.partial") == {}


@pytest.mark.parametrize(
    ("what", "word", "name", "said"),
    [
        ("denied", "put", "lock.json", "refuses access: Access Denied"),
        ("denied", "list", "", "refuses access: Access Denied"),
        ("broken", "put", "model-00003", "cannot be written to: reset by peer"),
        ("broken", "copy", "out/model-00003", "cannot be written to: reset by peer"),
        ("denied", "put", "out/config.json", "refuses access"),
    ],
)
def test_a_store_that_fails(models, store, wanted, capsys, what, word, name, said):
    words = ["--quiet", "merge", "--base", str(models / "base"), "--method", "ties", "-o", URL]
    words += [f"--expert={models / 'a'}", f"--expert={models / 'b'}", "--max-shard-size=1500"]
    words += ["--set", "density=0.5", "--set", "scope=model"]
    store.fault(what, word, name)
    assert invoke(words) == 7
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "bucket://b/deep/out" in error
    assert not loads(URL)
    done = len(journal(store)["shards"])
    assert done == {"list": 0, "copy": 6}.get(word, {"lock.json": 0, "model-00003": 2}.get(name, 6))
    store.mend()
    assert invoke(words) == 0
    compare(store.below("b/deep/out"), wanted)
    assert json.loads(store.below("b/deep/out")["taskloom.json"])["resumed_shards"] == done


def test_an_object_that_did_not_arrive_whole(models, store, monkeypatch):
    real = BucketFileSystem.put_file

    def cut(self, lpath, rpath, **options):
        real(self, lpath, rpath, **options)
        if "model-00002" in rpath:
            path = self._file(rpath)
            path.write_bytes(path.read_bytes()[:-1])

    monkeypatch.setattr(BucketFileSystem, "put_file", cut)
    with pytest.raises(StoreLost, match=r"model-00002.*bytes were sent, and the store has"):
        merged(models, URL)
    assert set(journal(store)["shards"]) == {"model-00001-of-00006.safetensors"}


def test_a_shard_that_somebody_removed_is_made_again(models, store, wanted, killed):
    killed(16)
    store.fs.rm("b/deep/out.partial/model/model-00001-of-00006.safetensors")
    merged(models, URL)
    compare(store.below("b/deep/out"), wanted)


def test_stores_that_can_do_less(models, store, wanted, monkeypatch):
    """No copies of its own, no refusal of a second writer."""
    real = BucketFileSystem.put_file

    def cp_file(self, *_, **__):
        raise NotImplementedError

    def put_file(self, lpath, rpath, **options):
        if options:
            raise TypeError("unexpected keyword argument 'mode'")
        real(self, lpath, rpath)

    monkeypatch.setattr(BucketFileSystem, "cp_file", cp_file)
    monkeypatch.setattr(BucketFileSystem, "put_file", put_file)
    merged(models, URL)
    compare(store.below("b/deep/out"), wanted)


# ---- two runs


def test_two_runs_into_one_output(models, store, wanted):
    said = []

    def again(*_):
        if not said:
            with pytest.raises(OutputError, match=rf"another run \(process {os.getpid()} on ") as caught:
                merged(models, URL)
            said.append(str(caught.value))

    merged(models, URL, progress=again)
    assert "remove bucket://b/deep/out.partial/lock.json" in said[0]
    compare(store.below("b/deep/out"), wanted)


def lock(store, **changes):
    table = {"run": "x", "machine": ["abacus"], "pid": 7, "process": "1", "since": "then"} | changes
    store.fs._file("b/deep/out.partial/lock.json").write_text(json.dumps(table))


def test_locks_of_others(models, store, wanted):
    lock(store, renewed=lease._now())
    with pytest.raises(OutputError, match=r"process 7 on abacus since then.*5 minutes after"):
        merged(models, URL)
    with pytest.raises(OutputError, match="process 7 on abacus"):
        told(models)
    lock(store, renewed="no time")
    with pytest.raises(OutputError, match="last sign of life no time"):
        merged(models, URL)
    lock(store, renewed="2026-01-02T03:04:05+00:00")  # given up
    merged(models, URL)
    compare(store.below("b/deep/out"), wanted)


@pytest.mark.parametrize(
    "changes",
    [{"pid": 2**22 + 1}, {"process": "another start"}, {"pid": os.getpid()}],
)
def test_a_lock_of_a_process_of_this_machine_that_has_ended(models, store, changes):
    mine = lease._process(os.getpid())
    lock(store, machine=lease._machine(), renewed=lease._now(), **{"process": mine} | changes)
    merged(models, URL)


def test_a_run_that_was_taken_over_stops(models, store):
    def progress(_, done, __):
        if done == 16:
            lock(store, renewed=lease._now())

    with pytest.raises(StoreLost, match=r"taken over by another run \(process 7 on abacus"):
        merged(models, URL, progress=progress)
    assert "b/deep/out.partial/lock.json" in store.objects, "it is the other's"
    assert journal(store)["shards"]
    assert store.below("b/deep/out") == {}


def test_a_lock_is_renewed(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    objects, times = Objects("bucket://b/x"), iter(range(10**6))
    monkeypatch.setattr(lease, "_now", lambda: f"time {next(times)}")
    with lease.Lease(objects, "b/x") as held:
        for _ in range(200):
            if "time 3" in objects.read(lease.LOCK).decode():
                break
            held._ended.wait(0.05)
        assert "time 3" in objects.read(lease.LOCK).decode()
        assert json.loads(objects.read(lease.LOCK))["since"] == "time 0"
    assert store.objects == {}


# ---- what is known before


def told(models, url=URL, **options):
    return explain(models / "base", [models / "a"], "task_arithmetic", url, **options)


def test_explain_and_check_write_nothing(models, store, capsys):
    found = told(models)
    assert found["output"] == URL
    assert found["scratch"] == tempfile.gettempdir()
    assert found["scratch_bytes_free"] > 0
    words = ["merge", "--base", str(models / "base"), f"--expert={models / 'a'}", "-o", URL]
    words += ["--method", "task_arithmetic"]
    assert invoke([*words, "--explain"]) == 0
    assert f"to {URL} by way of {tempfile.gettempdir()}, with " in capsys.readouterr().out
    assert invoke([*words, "--check"]) == 0
    assert all(line.startswith("list") for line in store.log)
    merged(models, URL)
    assert invoke([*words, "--check"]) == 7
    assert "--force" in capsys.readouterr().err
    store.fault("denied", "list", "")
    assert invoke([*words, "--check", "--force"]) == 7
    assert "Log in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket://b", "expected a folder in a bucket, found a bucket. Write bucket://b/model"),
        ("bucket://b/model.safetensors", "expected the address of a folder"),
        ("bucket://b/*", "expected the address of a folder"),
        ("bukket://b/m", "unknown protocol 'bukket'. Did you mean bucket://"),
        ("bucket://b/file", "is an object, where a folder is to be written"),
    ],
)
def test_addresses_that_name_no_folder(models, store, url, said):
    store.fs._file("b/file").write_text("mine")
    for ask in (told, merged):
        with pytest.raises(OutputError) as caught:
            ask(models, url, overwrite=True)
        assert said in str(caught.value)
    assert list(store.objects) == ["b/file"]


def test_a_protocol_whose_package_is_missing(models, store, capsys):
    from importlib.util import find_spec

    if find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(OutputError, match=r"s3:// needs a package .* pip install s3fs"):
        merged(models, "s3://b/m")


def test_an_output_that_holds_an_input(models, store):
    base = store.upload(models / "base", "b/pool/base")
    a = store.upload(models / "a", "b/pool/a")
    before = store.objects
    for out in ("bucket://b/pool", "bucket://b/pool/a", "bucket://b/pool/base/"):
        with pytest.raises(OutputError, match="holds the input bucket://b/pool/"):
            merge_files(base, [a], "task_arithmetic", out, overwrite=True)
    assert store.objects == before


def test_other_work_beside_the_output(models, store):
    store.fs._file("b/deep/out.partial/thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not an interrupted merge \(it has 'thesis.txt'\)"):
        merged(models, URL)
    assert store.below("b/deep/out.partial") == {"thesis.txt": b"mine"}


def test_temporary_files_without_room(models, store, monkeypatch):
    import errno

    from taskloom.merging import crew

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(crew.SafetensorsWriter, "write_slice", full)
    with pytest.raises(OutputError, match=r"temporary files .* is full.*TMPDIR"):
        merged(models, URL)
    assert store.objects == {}


def test_scratch_of_the_dead_is_removed(models, store, killed, tmp_path):
    """A process that is killed while it writes a shard leaves it; the next one clears it away."""
    killed(14)
    left = list((tmp_path / "scratch").iterdir())
    assert left
    (tmp_path / "scratch" / "mine").mkdir()
    merged(models, URL)
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["mine"]
    shutil.rmtree(tmp_path / "scratch" / "mine")


# ---- checked later


def test_verify(models, store, capsys):
    base, a, b = (store.upload(models / name, f"b/{name}") for name in ("base", "a", "b"))
    merge_files(base, [a, b], "ties", URL, max_shard_bytes=SHARD, density=0.5)
    found = verify(f"{URL}/", sample=2)
    assert found.path == URL
    assert (found.tensors, len(found.recomputed)) == (6, 2)
    assert verify(URL, everything=True).notes == ()
    assert invoke(["--quiet", "verify", URL]) == 0
    assert f"{URL}: " in capsys.readouterr().out
    before = store.objects
    for name, damage in {
        "config.json": lambda data: data.replace(b"bert", b"gpt2"),
        "model-00002-of-00006.safetensors": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        "model-00003-of-00006.safetensors": lambda data: data.replace(b'"pt"', b'"tf"'),
        "tokenizer.json": lambda data: data + b" ",
    }.items():
        key = f"b/deep/out/{name}"
        store.fs._file(key).write_bytes(damage(before[key]))
        assert invoke(["verify", URL]) == 6
        error = capsys.readouterr().err
        assert URL in error
        assert name in error or "'layer.1.w'" in error
        store.fs._file(key).write_bytes(before[key])
    store.upload(models / "bad", "b/a")
    with pytest.raises(IntegrityError, match="bucket://b/a: the objects are not those that were merged"):
        verify(URL)
    store.fs.rm("b/deep/out/tokenizer.json")
    with pytest.raises(IntegrityError, match=r"deep/out/tokenizer\.json: was written and is gone"):
        verify(URL)
    with pytest.raises(CheckpointError, match=r"bucket://b/no/taskloom\.json: cannot be read"):
        verify("bucket://b/no")


# ---- mergekit files


def test_a_mergekit_file(models, store, tmp_path, capsys):
    file = tmp_path / "merge.yaml"
    listed = "".join(f"- {{model: {models / name}, parameters: {{weight: 1}}}}\n" for name in "ab")
    file.write_text(f"merge_method: linear\nmodels:\n{listed}")
    assert invoke(["--quiet", "merge", str(file), URL]) == 0
    assert invoke(["--quiet", "merge", str(file), str(tmp_path / "out")]) == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    compare(store.below("b/deep/out"), files)
    assert invoke(["--quiet", "verify", URL]) == 0
    capsys.readouterr()
    assert invoke(["merge", str(file), URL]) == 7
    assert invoke(["merge", str(file), URL, "--explain"]) == 7
    assert invoke(["merge", str(file), f"{URL}2", "--explain"]) == 0
    assert f"to {URL}2 by way of" in capsys.readouterr().out


def test_named_documents_need_a_folder(models, store, tmp_path, capsys):
    file = tmp_path / "merge.yaml"
    entry = f"- {{model: {models / 'a'}, parameters: {{weight: 1}}}}"
    file.write_text(
        f"name: first\nmerge_method: linear\nmodels:\n{entry}\n---\nmerge_method: linear\n"
        f"models:\n{entry}\n- {{model: first, parameters: {{weight: 1}}}}\n"
    )
    assert invoke(["--quiet", "merge", str(file), URL]) == 2
    assert "--intermediate" in capsys.readouterr().err
    assert invoke(["--quiet", "merge", str(file), URL, f"--intermediate={tmp_path / 'middle'}"]) == 0
    assert (tmp_path / "middle" / "first" / "model.safetensors").is_file()
    assert loads(URL)


def test_marks_are_what_makes_a_model(models, store, wanted):
    assert set(MARKS) - {"model.safetensors"} <= set(wanted)
