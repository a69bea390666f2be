"""Merges of more bytes than the process may have."""

import json
import subprocess
import sys

import pytest

from taskloom.store.checkpoint import TensorInfo
from taskloom.store.header import NAMES

LIMITED = """
import resource, sys
from taskloom import merge_files
import taskloom.merging.blocks
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
merge_files(sys.argv[2], sys.argv[4:], "task_arithmetic", sys.argv[3], threads=2, digests="none")
try:
    bytearray(limit)
except MemoryError:
    print("the limit holds")
"""


def sparse(folder, count):
    """Write one tensor of that many bfloat16 zeros that takes no room on disk."""
    folder.mkdir()
    info = TensorInfo((count // 1000, 1000), "bfloat16")
    entry = {"dtype": NAMES["bfloat16"], "shape": list(info.shape), "data_offsets": [0, info.nbytes]}
    header = json.dumps({"w": entry}).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + info.nbytes)
    return folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts on Linux")
def test_inputs_larger_than_the_limit(tmp_path):
    count, limit = 75_000_000, 400_000_000
    paths = [sparse(tmp_path / name, count) for name in ("base", "a", "b", "c")]
    assert sum((path / "model.safetensors").stat().st_size for path in paths) > limit
    command = [sys.executable, "-c", LIMITED, str(limit), str(paths[0]), str(tmp_path / "out")]
    ran = subprocess.run([*command, *map(str, paths[1:])], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "the limit holds"), ran.stderr
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 2 * count
