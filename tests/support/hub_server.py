"""A stand-in for the Hugging Face hub on 127.0.0.1 that speaks its HTTP interface; the client is the real package.

Repositories with branches, regular and large files, the model card's check, errors with the hub's own codes. A
repository is written with the token ``hf_right`` and read by anybody.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"
LARGE = (".safetensors", ".onnx", ".tar.gz")
Files = dict[str, bytes]


class HubServer:
    """Started by ``with``; ``repositories`` maps ``owner/name`` to branches, and those to files."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Files]] = {}
        self.commits: dict[str, tuple[str, Files]] = {}
        self.heads: dict[tuple[str, str], str] = {}
        self.blobs: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.messages: list[str] = []
        self.served: list[str] = []
        self.refused: dict[str, int] = {}
        """Status to answer requests with whose path holds the text."""
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo: str, branch: str = "main") -> Files:
        return self.repositories[repo][branch]

    def commit(self, repo: str, branch: str, files: Files) -> str:
        sha = hashlib.sha1(f"{repo} {branch} {len(self.commits)}".encode()).hexdigest()
        self.repositories[repo][branch] = files
        self.commits[sha] = (repo, files)
        self.heads[repo, branch] = sha
        return sha


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        status = next((code for part, code in self.server_hub.refused.items() if part in path), None)
        writes = self.command in ("POST", "PUT") and "/objects/" not in path and "/validate-yaml" not in path
        if status is not None:
            self._send(status, {"error": "the stand-in refuses"})
        elif writes and self.headers.get("Authorization") != f"Bearer {TOKEN}" and not path.startswith("/blobs/"):
            self._send(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create()
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path.startswith("/api/models/"):
            self._model([unquote(part) for part in path.split("/")[3:]])
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch()
        elif path.startswith("/blobs/"):
            self.server_hub.blobs[path.rpartition("/")[2]] = self.body
            self._send(200, {})
        else:
            self._resolve([unquote(part) for part in path.split("/")[1:]])

    def _create(self) -> None:
        wanted = json.loads(self.body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        hub = self.server_hub
        if repo in hub.repositories:
            self._send(409, {"error": "You already created this model repo", "url": f"{hub.url}/{repo}"})
            return
        hub.repositories[repo] = {}
        hub.commit(repo, "main", {".gitattributes": b""})
        if wanted.get("private") or wanted.get("visibility") == "private":
            hub.private.add(repo)
        self._send(200, {"url": f"{hub.url}/{repo}", "name": repo})

    def _model(self, parts: list[str]) -> None:
        repo, what, revision = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "", "/".join(parts[3:]) or "main"
        hub = self.server_hub
        if repo not in hub.repositories:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif what == "branch":
            hub.commit(repo, revision, dict(hub.files(repo)))
            self._send(200, {})
        elif (found := self._at(repo, revision)) is None:
            self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif what in ("", "revision"):
            siblings = [{"rfilename": name} for name in found[1]]
            self._send(200, {"id": repo, "sha": found[0], "siblings": siblings, "tags": [], "private": False})
        elif what == "tree":
            self._send(200, [self._entry(name, data) for name, data in found[1].items()])
        elif what == "preupload":
            files = [self._mode(file["path"]) for file in json.loads(self.body)["files"]]
            self._send(200, {"files": files})
        elif what == "commit":
            self._commit(repo, revision, dict(found[1]))
        else:
            self._send(404, {"error": f"the stand-in has no {what}"})

    def _mode(self, name: str) -> dict[str, Any]:
        return {"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular", "shouldIgnore": False}

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _etag(name, data)[:40]}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": _etag(name, data), "size": len(data), "pointerSize": 130}
        return entry

    def _batch(self) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.server_hub.url}/blobs/{wanted['oid']}"}}}
            for wanted in json.loads(self.body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, branch: str, files: Files) -> None:
        for line in self.body.splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "header":
                self.server_hub.messages.append(value["summary"])
            elif change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.server_hub.blobs[value["oid"]]
            else:
                assert change["key"] == "deletedFile", change
                del files[value["path"]]
        sha = self.server_hub.commit(repo, branch, files)
        self._send(200, {"commitUrl": f"{self.server_hub.url}/{repo}/commit/{sha}", "commitOid": sha})

    def _resolve(self, parts: list[str]) -> None:
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        found = self._at(repo, parts[3]) if len(parts) > 4 and parts[2] == "resolve" else None
        if found is None or name not in found[1]:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        data = found[1][name]
        if self.command == "GET":
            self.server_hub.served.append(name)
        headers = {"ETag": f'"{_etag(name, data)}"', "X-Repo-Commit": found[0], "X-Linked-Size": str(len(data))}
        self._write(200, data, "application/octet-stream", headers)

    def _at(self, repo: str, revision: str) -> tuple[str, Files] | None:
        sha = self.server_hub.heads.get((repo, revision), revision)
        known = self.server_hub.commits.get(sha)
        return (sha, known[1]) if known is not None and known[0] == repo else None

    def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        self._write(status, json.dumps(answer).encode(), "application/json", headers or {})

    def _write(self, status: int, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _etag(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if name.endswith(LARGE) else hashlib.sha1(data).hexdigest()
