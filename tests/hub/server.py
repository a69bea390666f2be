"""A hub in this process: the endpoints that downloading a snapshot uses, on 127.0.0.1.

It answers what the real one documents: the commit of a revision, the tree of a commit, HEAD and GET
of a file with ETag, X-Repo-Commit and byte ranges, 401 for what may not be seen and 404 with an
error code for what is not there. It can also break off in the middle of a file.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_token_of_these_tests"


@dataclass
class Repo:
    """A repository: files by commit, commits by revision."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files, *revisions):
        """Add a commit and point revisions at it; returns its hash."""
        named = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())
        sha = hashlib.sha1(json.dumps([len(self.commits), named]).encode()).hexdigest()
        self.commits[sha] = dict(files)
        for revision in revisions or ("main",):
            self.refs[revision] = sha
        return sha


class Hub:
    """The server, its repositories, and what it was asked."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, range
        self.breaks: dict[str, list[int]] = {}  # file -> after how many bytes each GET breaks off
        self.busy = False  # answer 503 to everything
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def repo(self, name, **settings):
        return self.repos.setdefault(name, Repo(**settings))

    def fetched(self):
        """Names of the files whose bytes were asked for, in order."""
        return [path.split("/", 5)[5] for method, path, _ in self.asked if _is_file(method, path)]

    def stop(self):
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


def _is_file(method, path):
    return method == "GET" and not path.startswith("/api/")


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words):
            """Say nothing."""

        def do_GET(self):
            self.answer(with_body=True)

        def do_HEAD(self):
            self.answer(with_body=False)

        def answer(self, *, with_body):
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, self.headers.get("Range")))
            if hub.busy:
                return self.refuse(503, None, "the hub is being repaired", with_body)
            api = path.startswith("/api/models/")
            parts = path.removeprefix("/api/models/").removeprefix("/").split("/")
            name, verb, rest = "/".join(parts[:2]), parts[2] if len(parts) > 2 else None, parts[3:]
            repo = hub.repos.get(name)
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if repo is None or (repo.private and not known):
                return self.refuse(401, "RepoNotFound", "Repository not found", with_body)
            if repo.gated and not known and not (api and verb == "revision"):
                return self.refuse(401, "GatedRepo", "Access to the model is restricted", with_body)
            if api:
                # a revision may hold slashes: refs/pr/1
                revision = "/".join(rest) if rest else "main"
                return self.describe(name, repo, verb, revision, with_body)
            return self.file(repo, rest[0], "/".join(rest[1:]), with_body)

        def describe(self, name, repo, verb, revision, with_body):
            sha = repo.refs.get(revision, revision)
            if sha not in repo.commits:
                return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}", with_body)
            files = repo.commits[sha]
            if verb == "tree":
                table = [
                    {"type": "file", "path": path, "size": len(data), "oid": _sha1(data)}
                    for path, data in files.items()
                ]
            else:
                siblings = [{"rfilename": path} for path in files]
                table = {"id": name, "sha": sha, "siblings": siblings, "private": repo.private}
            return self.send(200, json.dumps(table).encode(), {"Content-Type": "application/json"})

        def file(self, repo, revision, path, with_body):
            sha = repo.refs.get(revision, revision)
            if sha not in repo.commits:
                return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}", with_body)
            data = repo.commits[sha].get(path)
            if data is None:
                return self.refuse(404, "EntryNotFound", "Entry not found", with_body)
            head = {"ETag": f'"{_sha1(data)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
            first = int((self.headers.get("Range") or "bytes=0-")[len("bytes=") :].split("-")[0])
            status = 206 if self.headers.get("Range") else 200
            if status == 206:
                head["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            left = hub.breaks.get(path) if with_body else None
            return self.send(
                status, data[first:], head, body=with_body, stop=left.pop(0) if left else None
            )

        def refuse(self, status, code, message, with_body):
            head = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
            self.send(status, json.dumps({"error": message}).encode(), head, body=with_body)

        def send(self, status, data, head, *, body=True, stop=None):
            self.send_response(status)
            for key, value in head.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data if stop is None else data[:stop])
            if stop is not None:
                self.wfile.flush()
                self.close_connection = True

    return Handler


def _sha1(data):
    return hashlib.sha1(data).hexdigest()
