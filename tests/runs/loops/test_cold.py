"""ColD fusion: the card's numbers, the rule of what is accepted, garbage, order, processes that die."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import signal
import time
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bucket import Bucket, BucketFileSystem
from taskloom.errors import CheckpointError, DataError, NumericalError, OutputError, PlanError
from taskloom.runs.loops import exchange
from taskloom.runs.loops.cold import cold
from taskloom.runs.loops.contribution import MANIFEST, Manifest, check_name
from taskloom.runs.loops.contributor import fetch_base, offer
from taskloom.runs.loops.exchange import open_exchange
from taskloom.runs.loops.federation import fuse, open_federation, read_current

from .toy import hill, play, read_model, setting, write_model

#: the card: L_t = 0.5 * a_t * (theta - c_t)^2, two steps of gradient descent of 0.5
CENTRES = {"left": np.array([1.0, 0.0]), "right": np.array([0.0, 2.0])}
STEEP = {"left": np.array([1.0, 0.5]), "right": np.array([0.25, 1.0])}
BODIES = [
    {"left": [0.75, 0.0], "right": [0.0, 1.5]},
    {"left": [0.84375, 0.421875], "right": [0.287109, 1.6875]},
    {"left": [0.891357, 0.593262], "right": [0.432907, 1.763672]},
]
FUSED = [[0.375, 0.75], [0.56543, 1.054688], [0.662132, 1.178467]]


def tuned(name, theta):
    for _ in range(2):
        theta = theta - 0.5 * STEEP[name] * (theta - CENTRES[name])
    return theta


def model(folder: Path, w, **more):
    """A base with a matrix in bfloat16 and a count beside the weights that are looked at."""
    write_model(folder, w)
    tensors = {
        "w": torch.as_tensor(np.array(w), dtype=torch.float64),
        "half": torch.full((3, 2), float(np.sum(w)), dtype=torch.bfloat16),
        "count": torch.tensor([7]),
    }
    save_file({**tensors, **more}, folder / "model.safetensors")
    return folder


@pytest.fixture
def place(tmp_path):
    open_federation(str(model(tmp_path / "base", [0.0, 0.0])), tmp_path / "x")
    return tmp_path / "x"


def base(place):
    return read_model(place / "rounds" / f"{read_current(open_exchange(place)).round:04d}").numpy()


def hand_in(place, tmp_path, name, w, *, examples=10, **more):
    return offer(place, name, model(tmp_path / f"of-{name}", w), examples=examples, **more)


def bytes_of(place, number):
    return (place / "rounds" / f"{number:04d}" / "model.safetensors").read_bytes()


def test_golden_three_rounds_of_the_card(place, tmp_path):
    for number in range(3):
        for name in CENTRES:
            body = tuned(name, base(place))
            assert body == pytest.approx(np.array(BODIES[number][name]), abs=1e-6)
            hand_in(place, tmp_path, name, body)
        (done,) = fuse(place, quorum=2)
        assert base(place) == pytest.approx(np.array(FUSED[number]), abs=1e-6)
        assert (done.number, done.closed_by, done.weights) == (
            number,
            "quorum",
            {"left": 0.5, "right": 0.5},
        )
    record = json.loads((place / "rounds" / "0002.json").read_text())
    assert [each["decision"] for each in record["contributions"]] == ["accepted"] * 2
    assert load_file(place / "rounds" / "0003" / "model.safetensors")["count"].item() == 7


def test_the_loop_in_one_process_gives_the_cards_numbers_too(tmp_path):
    losses = {name: hill(CENTRES[name], STEEP[name]) for name in CENTRES}
    on = setting(tmp_path, losses, [0.0, 0.0], rate=0.5)
    rounds, models = play(tmp_path, on, cold(on, rounds=3, steps=2))
    for number, wanted in enumerate(FUSED, start=1):
        assert models[number].numpy() == pytest.approx(np.array(wanted), abs=1e-6)
    assert [entry["weight"] for entry in rounds[1].merged] == [0.5, 0.5]


def test_contributors_are_drawn_by_the_seed_and_unseen_tasks_stay_out(tmp_path):
    losses = {name: hill([float(place), 1.0]) for place, name in enumerate("abcde")}
    on = setting(tmp_path, losses, [0.0, 0.0], rate=0.5)
    plan = cold(on, rounds=6, steps=1, contributors=2, unseen=("e",))
    rounds, _ = play(tmp_path, on, plan)
    drawn = [tuple(entry["name"] for entry in each.merged) for each in rounds[1:]]
    assert all(len(set(names)) == 2 for names in drawn)
    assert len(set(drawn)) > 1
    assert "e" not in set(itertools.chain.from_iterable(drawn))
    assert [score.task for score in rounds[0].scores] == list("abcde")
    again = setting(tmp_path / "again", losses, [0.0, 0.0], rate=0.5)
    repeated, _ = play(
        tmp_path / "again", again, cold(again, rounds=6, steps=1, contributors=2, unseen=("e",))
    )
    assert [[e["digest"] for e in r.merged] for r in repeated] == [
        [e["digest"] for e in r.merged] for r in rounds
    ]
    assert set(plan.compared) == {"start", "joint", "fused once", "start for e"}


def test_the_base_gets_better_on_seen_tasks_and_as_a_start_for_an_unseen_one(tmp_path):
    """Tasks that share a direction: whoever starts from the fused base has less of a way to go."""
    centres = {"a": [2.0, 1.0], "b": [2.0, -1.0], "c": [2.0, 0.5], "new": [2.0, 0.0]}
    on = setting(tmp_path, {n: hill(c) for n, c in centres.items()}, [0.0, 0.0], rate=0.1)
    plan = cold(on, rounds=5, steps=4, unseen=("new",), probe_steps=3)
    rounds, _ = play(tmp_path, on, plan)
    for task in ("a", "b", "c"):
        first, last = (next(s for s in r.scores if s.task == task) for r in (rounds[0], rounds[-1]))
        assert last.value > first.value
    rival = plan.compared["start for new"](tmp_path / "loop" / "round-005")
    assert rival.mine.mean > rival.reading.mean
    assert rival.steps == 3
    w = np.zeros(2)
    for _ in range(3):  # fine-tuning from the old base, once more
        w = w - 0.1 * (w - np.array(centres["new"]))
    assert rival.reading.mean == pytest.approx(1 - 0.5 * ((w - [2.0, 0.0]) ** 2).sum())


# --- the rule ---------------------------------------------------------------------------------


def spoil(folder, what):
    """Damage a contribution that is whole, in one of many ways."""
    manifest, weights = folder / MANIFEST, folder / "model.safetensors"
    table, tensors = json.loads(manifest.read_text()), load_file(weights)
    match what:
        case "a byte":
            data = bytearray(weights.read_bytes())
            data[-3] ^= 1
            weights.write_bytes(data)
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-8])
        case "no weights":
            weights.unlink()
        case "no json":
            manifest.write_text("{")
        case "deep":
            manifest.write_text("[" * 100_000)
        case "no text":
            manifest.write_bytes(b"\xff\xfe\x00garbage")
        case "another base":
            manifest.write_text(json.dumps(table | {"base": "0" * 64}))
        case "another name":
            manifest.write_text(json.dumps(table | {"contributor": "somebody"}))
        case "the future":
            manifest.write_text(json.dumps(table | {"round": 9}))
        case "no examples":
            manifest.write_text(json.dumps(table | {"examples": 0}))
        case "another key":
            manifest.write_text(json.dumps(table | {"exec": "rm"}))
        case "another tensor":
            manifest.write_text(json.dumps(table | {"tensors": table["tensors"] | {"v": "0"}}))
        case "shape":
            save_file(tensors | {"half": tensors["half"].reshape(2, 3).contiguous()}, weights)
        case "kind":
            save_file(tensors | {"half": tensors["half"].to(torch.float16)}, weights)
        case "link":
            weights.rename(folder.parent.parent.parent / "elsewhere")
            weights.symlink_to(folder.parent.parent.parent / "elsewhere")
        case "pipe":
            weights.unlink()
            os.mkfifo(weights)
        case "folder":
            manifest.unlink()
            manifest.mkdir()
        case "nan":
            from taskloom.store.digest import tensor_digest

            tensors["w"] = torch.tensor([float("nan"), 1.0], dtype=torch.float64)
            save_file(tensors, weights)
            digests = {name: tensor_digest(each) for name, each in tensors.items()}
            manifest.write_text(json.dumps(table | {"tensors": digests}))


REASONS = {
    "a byte": "bytes of tensor .* are not those its manifest names",
    "cut": "",
    "no weights": "its weights have no bytes",
    "no json": "",
    "deep": "",
    "no text": "",
    "another base": "it was tuned from another base",
    "another name": "its manifest names the contributor 'somebody'",
    "the future": "it is for round 9, and the open round is 0",
    "no examples": "examples: input should be greater than or equal to 1",
    "another key": "exec: extra inputs are not permitted",
    "another tensor": "only the manifest names the tensor 'v'",
    "shape": r"tensor 'half': expected \[3, 2\] bfloat16, found \[2, 3\] bfloat16",
    "kind": r"tensor 'half': expected \[3, 2\] bfloat16, found \[3, 2\] float16",
    "link": "is a link or a special file",
    "pipe": "is a link or a special file",
    "folder": "is a link or a special file",
    "nan": "tensor 'w' has NaN or infinity",
}


def test_what_is_damaged_is_refused_by_name_and_the_others_are_fused(place, tmp_path):
    for what in REASONS:
        name = what.replace(" ", "-")
        hand_in(place, tmp_path, name, [5.0, 5.0])
        spoil(place / "contributions" / "0000" / name, what)
    good = {"one": [1.0, 0.0], "two": [0.0, 1.0]}
    for name, w in good.items():
        hand_in(place, tmp_path, name, w)
    (done,) = fuse(place, quorum=2)
    assert done.accepted == ("one", "two")
    assert base(place).tolist() == [0.5, 0.5]
    verdicts = {each.contributor: each for each in done.verdicts}
    for what, reason in REASONS.items():
        verdict = verdicts[what.replace(" ", "-")]
        assert verdict.decision == "refused", what
        assert re.search(reason, verdict.reason), (what, verdict.reason)
        assert verdict.reason
    record = json.loads((place / "rounds" / "0000.json").read_text())
    told = {e["contributor"]: e for e in record["contributions"]}
    assert set(told) == {*good, *(what.replace(" ", "-") for what in REASONS)}
    assert told["nan"] == {
        "contributor": "nan",
        "decision": "refused",
        "reason": verdicts["nan"].reason,
    }


def test_garbage_of_every_other_kind_is_no_trouble(place, tmp_path):
    here = place / "contributions"
    hand_in(place, tmp_path, "good", [1.0, 1.0])
    (here / "0000" / "a-file").write_text("not a folder")
    (here / "0000" / "empty").mkdir()
    (here / "0000" / ".good.0123abcd.tmp").mkdir()
    (here / "0000" / "name with spaces").mkdir()
    (here / "0000" / "dangling").symlink_to("nowhere")
    (here / "README.txt").write_text("hello")
    (here / "0007").mkdir()
    (here / "0007" / "eager").mkdir()
    (place / "unrelated").write_bytes(b"\x00" * 100)
    (done,) = fuse(place, quorum=2, deadline=0)
    assert done.accepted == ("good",)
    assert done.closed_by == "deadline"
    decisions = {each.contributor: each.decision for each in done.verdicts}
    assert decisions["empty"] == "unfinished"
    for name in ("README.txt", "eager", "name with spaces"):
        assert decisions[name] == "refused"
    assert ".good.0123abcd.tmp" not in decisions


def test_late_ones_are_skipped_and_told_once(place, tmp_path):
    hand_in(place, tmp_path, "quick", [1.0, 0.0])
    hand_in(place, tmp_path, "slow", [9.0, 9.0])
    late = place / "contributions" / "0000" / "slow"
    late.rename(tmp_path / "under-way")
    fuse(place, quorum=1)
    (tmp_path / "under-way").rename(late)  # to the closed round, where it belonged
    hand_in(place, tmp_path, "quick", [0.0, 1.0])
    old = place / "contributions" / "0001" / "stale"  # and one to the open round, of the old one
    old.mkdir()
    for name in (MANIFEST, "model.safetensors"):
        (old / name).write_bytes((late / name).read_bytes())
    (done,) = fuse(place, quorum=1)
    verdicts = {each.contributor: (each.decision, each.reason) for each in done.verdicts}
    assert verdicts["slow"] == ("late", "round 0 was closed without it")
    assert verdicts["stale"] == ("late", "it was made for round 0")
    assert done.accepted == ("quick",)
    hand_in(place, tmp_path, "quick", [0.0, 2.0])
    (done,) = fuse(place, quorum=1)
    assert [each.contributor for each in done.verdicts] == ["quick"]


def test_the_same_set_gives_the_same_bytes_in_whatever_order_it_came(tmp_path):
    bodies = {"a": [0.1, 0.7], "b": [1e-3, 0.3], "c": [0.2, 1e5]}
    results = []
    for order in itertools.permutations(bodies):
        place = tmp_path / "".join(order)
        open_federation(str(model(tmp_path / "base", [0.0, 0.0])), place)
        for name in order:
            hand_in(place, tmp_path, name, bodies[name])
        fuse(place, quorum=3)
        results.append(bytes_of(place, 1))
    assert len(set(results)) == 1
    mean = np.mean([bodies[name] for name in sorted(bodies)], axis=0)
    assert read_model(place / "rounds" / "0001").numpy() == pytest.approx(mean)


def test_weights_by_examples(place, tmp_path):
    hand_in(place, tmp_path, "small", [1.0, 0.0], examples=1)
    hand_in(place, tmp_path, "large", [0.0, 1.0], examples=3)
    (done,) = fuse(place, quorum=2, weigh="examples")
    assert done.weights == {"large": 0.75, "small": 0.25}
    assert base(place) == pytest.approx(np.array([0.25, 0.75]))


# --- quorum and deadline ----------------------------------------------------------------------


def test_a_deadline_without_contributions_leaves_the_round_open(place, tmp_path):
    hand_in(place, tmp_path, "broken", [1.0, 0.0])
    spoil(place / "contributions" / "0000" / "broken", "nan")
    with pytest.raises(DataError, match=r"expected 1 .* round 0 within 0 s, found 0 \(broken refused"):
        fuse(place, quorum=2, deadline=0)
    assert read_current(open_exchange(place)).round == 0
    # who was refused may hand in again
    hand_in(place, tmp_path, "broken", [1.0, 0.0], replace=True)
    (done,) = fuse(place, quorum=2, deadline=0)
    assert done.accepted == ("broken",)


def test_the_server_waits_for_the_quorum(place, tmp_path):
    hand_in(place, tmp_path, "one", [1.0, 0.0])
    seen = []

    def arrives(label, done, total):
        if label.startswith("contributions"):
            seen.append((done, total))
            if len(seen) == 3:
                hand_in(place, tmp_path, "two", [0.0, 1.0])

    (done,) = fuse(place, quorum=2, poll=0.01, progress=arrives)
    assert done.accepted == ("one", "two")
    assert seen == [(1, 2)] * 3 + [(2, 2)]


@pytest.mark.parametrize(
    "wrong", [{"quorum": 0}, {"rounds": 0}, {"least": 3}, {"poll": 0.0}, {"weigh": "size"}]
)
def test_numbers_that_make_no_sense(place, wrong):
    with pytest.raises(PlanError, match="fuse:"):
        fuse(place, **wrong)


# --- contributors -----------------------------------------------------------------------------


def test_handing_in_again(place, tmp_path):
    first = hand_in(place, tmp_path, "lab", [1.0, 0.0])
    assert hand_in(place, tmp_path, "lab", [1.0, 0.0]) == first
    with pytest.raises(OutputError, match="exists"):
        hand_in(place, tmp_path, "lab", [2.0, 0.0])
    hand_in(place, tmp_path, "lab", [2.0, 0.0], replace=True)
    fuse(place, quorum=1)
    assert base(place).tolist() == [2.0, 0.0]


def test_what_a_contributor_cannot_hand_in(place, tmp_path):
    nan = model(tmp_path / "nan", [float("nan"), 0.0])
    with pytest.raises(NumericalError, match="tensor 'w' has NaN"):
        offer(place, "lab", nan, examples=1)
    head = model(tmp_path / "head", [0.0, 0.0], classifier=torch.zeros(2))
    with pytest.raises(CheckpointError, match="a tensor 'classifier', which the base has not"):
        offer(place, "lab", head, examples=1)
    with pytest.raises(CheckpointError, match="tensor 'count': expected"):
        offer(place, "lab", write_model(tmp_path / "other", [0.0, 0.0]), examples=1)
    with pytest.raises(DataError, match="expected letters"):
        offer(place, "../lab", model(tmp_path / "fine", [0.0, 0.0]), examples=1)
    with pytest.raises(OutputError, match="round 3 is closed, and round 0 is open"):
        offer(place, "lab", tmp_path / "fine", examples=1, number=3)
    assert not (place / "contributions").exists()
    assert check_name("lab-3.b") == "lab-3.b"


def test_opening(place, tmp_path):
    again = open_federation(str(tmp_path / "base"), place)
    assert again.round == 0
    with pytest.raises(PlanError, match="began with another base"):
        open_federation(str(model(tmp_path / "another", [1.0, 1.0])), place)
    with pytest.raises(CheckpointError, match="no round is open"):
        fuse(tmp_path / "nothing", quorum=1)
    (place / "current.json").write_text('{"round": -1, "digest": ""}')
    with pytest.raises(CheckpointError, match=r"current.json is malformed"):
        fuse(place, quorum=1)


def test_a_base_that_was_changed_is_not_served(place, tmp_path):
    model(place / "rounds" / "0000", [3.0, 3.0])
    with pytest.raises(CheckpointError, match=r"not those that current.json names"):
        fuse(place, quorum=1)


def test_one_server_at_a_time(place):
    with open_exchange(place).held(), pytest.raises(OutputError, match="another server fuses here"):
        fuse(place, quorum=1, deadline=0)


# --- processes --------------------------------------------------------------------------------


def process(work, *words):
    """Start a process; it shares the folder and nothing that changes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside idle threads
        started = multiprocessing.get_context("fork").Process(target=work, args=words)
        started.start()
    return started


def takes_part(place, name, rounds, centre):
    """What a contributor does: wait for a round, tune its base, hand it in."""
    last = -1
    for _ in range(rounds):
        while (now := read_current(open_exchange(place))).round == last:
            time.sleep(0.01)
        last = now.round
        w = read_model(place / "rounds" / f"{last:04d}")
        hand_in(place, place.parent, name, (w + 0.5 * (centre - w)).numpy())


def dies_handing_in(place):
    """Write half of the weights, then get killed."""

    def half(local, folder, **_):
        data = (local / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    exchange.shutil.copytree = half
    hand_in(place, place.parent, "dying", [100.0, 100.0])


def dies_fusing(place, before):
    """Serve, and get killed when a file is about to be written."""
    write = exchange.FolderExchange.write

    def dies(self, name, data):
        if name == before:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, name, data)

    exchange.FolderExchange.write = dies
    fuse(place, quorum=2)


def test_processes_that_share_nothing_but_the_folder(place):
    """Two contributors go three rounds; a third is killed in the middle of handing in."""
    dying = process(dies_handing_in, place)
    dying.join(60)
    assert dying.exitcode == -signal.SIGKILL
    workers = [process(takes_part, place, "up", 3, 4.0), process(takes_part, place, "down", 3, -2.0)]
    try:
        done = fuse(place, rounds=3, quorum=2, deadline=60, poll=0.01)
        for each in workers:
            each.join(60)
        assert [each.exitcode for each in workers] == [0, 0]
    finally:
        for each in workers:
            each.kill()
            each.join()
    assert [each.accepted for each in done] == [("down", "up")] * 3
    w = 0.0
    for _ in range(3):  # the rule once more
        w = ((w + 0.5 * (4.0 - w)) + (w + 0.5 * (-2.0 - w))) / 2
    assert base(place).tolist() == pytest.approx([w, w])
    left = [path.name for path in (place / "contributions" / "0000").iterdir()]
    assert sorted(name for name in left if not name.startswith(".")) == ["down", "up"]
    assert len(left) == 3  # what the killed one left is hidden, and no contribution


@pytest.mark.parametrize("before", ["rounds/0000.json", "current.json"])
def test_a_server_that_was_killed_does_the_round_over_and_only_that(place, tmp_path, before):
    hand_in(place, tmp_path, "one", [1.0, 0.0])
    hand_in(place, tmp_path, "two", [0.0, 1.0])
    killed = process(dies_fusing, place, before)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert read_current(open_exchange(place)).round == 0
    (done,) = fuse(place, quorum=2)
    assert done.number == 0
    assert base(place).tolist() == [0.5, 0.5]
    with pytest.raises(DataError, match="round 1"):  # round 0 is over
        fuse(place, quorum=2, deadline=0)


def test_an_object_store_serves_as_well(tmp_path, monkeypatch):
    """The same through a store without renames, and a manifest that is not there yet."""
    bucket = Bucket(tmp_path / "store")
    monkeypatch.setenv("FSSPEC_BUCKET_ROOT", str(bucket.root))
    fsspec.register_implementation("bucket", BucketFileSystem, clobber=True)
    url = "bucket://lab/cold"
    open_federation(str(model(tmp_path / "base", [0.0, 0.0])), url)
    for name, w in (("one", [1.0, 0.0]), ("two", [0.0, 1.0]), ("three", [5.0, 5.0]), ("four", [7, 7])):
        hand_in(url, tmp_path, name, w)
    bucket.fs.rm(f"lab/cold/contributions/0000/three/{MANIFEST}")  # as when killed before the last file
    weights = bucket.fs._file("lab/cold/contributions/0000/four/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-3] + b"abc")
    (done,) = fuse(url, quorum=2)
    assert done.accepted == ("one", "two")
    decisions = {each.contributor: each.decision for each in done.verdicts}
    assert decisions == {"one": "accepted", "two": "accepted", "three": "unfinished", "four": "refused"}
    fetched = fetch_base(open_exchange(url), read_current(open_exchange(url)))
    assert read_model(fetched).tolist() == [0.5, 0.5]
    assert json.loads(bucket.objects["lab/cold/current.json"])["round"] == 1
    bucket.fs._file("lab/cold/contributions/0001/../x/model.safetensors").write_bytes(b"up")
    hand_in(url, tmp_path, "five", [1.0, 1.0])
    (done,) = fuse(url, quorum=1)
    assert {e.contributor: e.decision for e in done.verdicts}[".."] == "refused"
    hand_in(url, tmp_path, "five", [1.0, 1.0])
    with pytest.raises(OutputError, match="exists"):
        hand_in(url, tmp_path, "five", [2.0, 2.0])


def test_the_manifest_says_what_the_documentation_says():
    assert set(Manifest.model_fields) == {
        "format",
        "round",
        "base",
        "contributor",
        "examples",
        "tensors",
    }
