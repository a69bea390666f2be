"""Statistics as files: what is written is read, and what is none is refused."""

import pytest
import torch
from safetensors.torch import save_file

from taskloom.errors import CheckpointError
from taskloom.store.statistic import Statistic, open_statistic


def test_round_trip(tmp_path):
    made = Statistic.of("graft", {"a": torch.tensor([True, False]), "b": torch.ones(2, 2)}, kept="1")
    read = open_statistic(made.save(tmp_path / "s.safetensors"))
    assert (read.kind, read.table["kept"]) == ("graft", "1")
    assert all(torch.equal(read.tensors()[n], t) for n, t in made.tensors().items())
    assert read.checkpoint.digest() == made.checkpoint.digest()
    assert open_statistic(read) is read


def test_a_statistic_without_tensors(tmp_path):
    made = Statistic.of("sensitivity", {}, layers='{"a": 1.5}')
    read = open_statistic(made.save(tmp_path / "s.safetensors"))
    assert read.table["layers"] == '{"a": 1.5}'
    assert not read.checkpoint.tensors


def test_digests_tell_kind_and_header_apart():
    one = {"a": torch.ones(2)}
    digests = {Statistic.of(kind, one, norm=n).digest() for kind in "xy" for n in "12"}
    assert len(digests) == 4


def test_what_is_none_is_refused(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    for source, message in (
        (tmp_path / "w.safetensors", "a header that says which statistic"),
        (tmp_path, "found a folder"),
        (tmp_path / "gone", "found none"),
        ({"w": torch.ones(1)}, "found dict"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_statistic(source)
