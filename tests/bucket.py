"""An object store over a local folder, for tests: ``bucket://name/key``.

Objects are written whole or not at all; there is no rename, no append and no folder. It can be told to
fail, or to kill the process that asks (`Bucket.fault`), and keeps a log of what was asked of it, for all
processes together. Other processes know it as they know any store: a package on their path that fsspec
finds (`Bucket.package`), and a variable of the environment that says where it is.
"""

import contextlib
import json
import os
import shutil
import signal
import uuid
from pathlib import Path
from urllib.parse import quote, unquote

from fsspec.spec import AbstractFileSystem


class BucketFileSystem(AbstractFileSystem):
    protocol = "bucket"
    cachable = False

    def __init__(self, root=None, **options):
        super().__init__(**options)
        self.root = Path(root or os.environ["FSSPEC_BUCKET_ROOT"])

    def _file(self, path):
        return self.root / quote(self._strip_protocol(path), safe="")

    def _log(self, word, path):
        path = self._strip_protocol(path)
        with contextlib.suppress(FileNotFoundError):
            fault = json.loads((self.root / ".fault").read_text())
            if fault["word"] == word and fault["name"] in path and fault["after"] <= self._count():
                if fault["what"] == "kill":
                    (self.root / ".fault").unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
                raise {"denied": PermissionError, "broken": ConnectionError}[fault["what"]](
                    "Access Denied" if fault["what"] == "denied" else "reset by peer"
                )
        with (self.root / ".log").open("a") as log:
            log.write(f"{word} {path}\n")

    def _count(self):
        log = self.root / ".log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def _entries(self):
        for file in self.root.iterdir():
            if not file.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    stat = file.stat()
                    name = unquote(file.name)
                    mark = f"{stat.st_mtime_ns} {stat.st_ino}"
                    yield name, {"name": name, "size": stat.st_size, "type": "file", "mark": mark}

    def ls(self, path, detail=True, **_):
        path, found = self._strip_protocol(path).strip("/"), {}
        for name, entry in self._entries():
            if name == path:
                found[name] = entry
            elif name.startswith(f"{path}/"):
                head, slash, _ = name[len(path) + 1 :].partition("/")
                child = f"{path}/{head}"
                found[child] = {"name": child, "size": 0, "type": "directory"} if slash else entry
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else sorted(found)

    def find(self, path, maxdepth=None, withdirs=False, detail=False, **_):
        path = self._strip_protocol(path)
        self._log("list", path)
        below = {n: e for n, e in self._entries() if n == path or n.startswith(f"{path}/")}
        return below if detail else sorted(below)

    def info(self, path, **_):
        path = self._strip_protocol(path)
        for name, entry in self._entries():
            if name == path:
                return entry
        if any(name.startswith(f"{path}/") for name, _ in self._entries()):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def cat_file(self, path, start=None, end=None, **_):
        return self._file(path).read_bytes()[start:end]

    def put_file(self, lpath, rpath, callback=None, mode="overwrite", **_):
        self._log("put", rpath)
        temporary = self.root / f".{uuid.uuid4().hex}"
        shutil.copyfile(lpath, temporary)
        try:
            if mode == "create":
                os.link(temporary, self._file(rpath))
            else:
                os.replace(temporary, self._file(rpath))
        finally:
            temporary.unlink(missing_ok=True)

    def cp_file(self, path1, path2, **_):
        self._log("copy", path2)
        temporary = self.root / f".{uuid.uuid4().hex}"
        shutil.copyfile(self._file(path1), temporary)
        os.replace(temporary, self._file(path2))

    def rm(self, path, recursive=False, maxdepth=None):
        for each in [path] if isinstance(path, str) else path:
            self._log("remove", each)
            self._file(each).unlink()


class Bucket:
    """A store of its own in a folder, and what tests look at."""

    def __init__(self, root):
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.fs = BucketFileSystem(root=str(self.root), skip_instance_cache=True)

    @property
    def objects(self):
        """Every object by its key."""
        return {name: self.fs.cat_file(name) for name, _ in self.fs._entries()}

    @property
    def log(self):
        path = self.root / ".log"
        return path.read_text().splitlines() if path.exists() else []

    def below(self, key):
        """The objects below a key by the rest of their names."""
        return {n[len(key) + 1 :]: d for n, d in self.objects.items() if n.startswith(f"{key}/")}

    def upload(self, folder, key):
        """Put the files of a local folder; return the address."""
        for path in Path(folder).rglob("*"):
            if path.is_file():
                shutil.copyfile(path, self.fs._file(f"{key}/{path.relative_to(folder).as_posix()}"))
        return f"bucket://{key}"

    def fault(self, what, word, name, after=0):
        """From now on a word (put, copy, remove, list) on some keys is denied, broken, or kills."""
        table = {"what": what, "word": word, "name": name, "after": after}
        (self.root / ".fault").write_text(json.dumps(table))

    def mend(self):
        (self.root / ".fault").unlink(missing_ok=True)


def package(folder):
    """Install the store into a folder as a package that fsspec finds on the path of a process."""
    folder = Path(folder)
    information = folder / "taskloom_test_bucket-1.dist-info"
    information.mkdir(parents=True)
    shutil.copyfile(__file__, folder / "taskloom_test_bucket.py")
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: taskloom_test_bucket\nVersion: 1"
    )
    (information / "entry_points.txt").write_text(
        "[fsspec.specs]\nbucket = taskloom_test_bucket:BucketFileSystem\n"
    )
    return folder
