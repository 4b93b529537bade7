"""A server on this machine that plays the hub: repositories, large files elsewhere, uploads, and everything that can go wrong."""

import base64
import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "1234567890abcdef1234567890abcdef12345678"
LARGE = "model.safetensors"
TOKEN = "hf_test_token_that_must_not_be_printed"


@dataclass
class Repository:
    """One repository with one state."""

    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main", "v1.0")
    access: str = "public"
    """Or "gated" or "private": these want the token."""
    private: bool = False


@dataclass
class Trouble:
    """What goes wrong with a file; `times` requests of its bytes are concerned."""

    cut: int | None = None
    """Close the connection after so many bytes."""
    body: bytes | None = None
    """Send this instead."""
    status: int | None = None
    hang: bool = False
    """Never answer."""
    etag: str | None = None
    commit: str | None = None
    size: int | None = None
    no_length: bool = False
    """Never say how long it is."""
    times: int = 99
    then_nothing: bool = False
    """Once `times` is over, close every connection at once."""


class Hub:
    """The server; requests are in `seen` as (method, path, whether a token came)."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.trouble: dict[str, Trouble] = {}
        self.seen: list[tuple[str, str, bool]] = []
        self.ranges: list[str] = []
        self.sent: Counter[str] = Counter()
        self.uploaded: dict[str, bytes] = {}
        self.commits: list[list[dict]] = []
        self.refuses_uploads = False
        self.end = threading.Event()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self})
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, repo_id: str, folder: Path, **settings) -> Repository:
        """Put the files of a weights folder into a repository, the card under the hub's name."""
        names = {"card.md": "README.md"}
        files = {names.get(path.name, path.name): path.read_bytes() for path in folder.iterdir()}
        self.repositories[repo_id] = Repository(files=files, **settings)
        return self.repositories[repo_id]

    def paths(self, method: str | None = None) -> list[str]:
        return [path for one, path, _ in self.seen if method in (None, one)]

    def close(self) -> None:
        self.end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._read(body=False)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/api/models/"):
            self._note()
            repository = self.hub.repositories.get(path.removeprefix("/api/models/"))
            if repository is None:
                self._refuse(404, "RepoNotFound")
            else:
                self._json(
                    {"id": path[12:], "private": repository.private, "sha": repository.commit}
                )
            return
        self._read(body=True)

    def do_POST(self) -> None:
        self._note()
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            self._json(*_created(self.hub, data))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            self._json(_planned(data))
        elif path.endswith("/info/lfs/objects/batch"):
            self._json(_places(self.hub, data))
        else:
            self._json(_committed(self.hub, "/".join(path.split("/")[3:5]), data))

    def do_PUT(self) -> None:
        self._note()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hub.refuses_uploads:
            self._refuse(403, "")
            return
        self.hub.uploaded[hashlib.sha256(data).hexdigest()] = data
        self._json({})

    def _note(self) -> None:
        self.hub.seen.append((self.command, self.path, "Authorization" in self.headers))

    def _read(self, *, body: bool) -> None:
        self._note()
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "large":  # where large files lie: another host, as on the hub
            repository, name = self.hub.repositories["/".join(parts[1:3])], parts[3]
            self._bytes(repository, name, body=body)
            return
        repo_id, revision, name = "/".join(parts[:2]), "/".join(parts[3:-1]), parts[-1]
        repository = self.hub.repositories.get(repo_id)
        trouble = self.hub.trouble.get(name, Trouble())
        if trouble.hang and not body:
            self.hub.end.wait(20)
            return
        refusal = _refusal(repository, revision, name, token="Authorization" in self.headers)
        if trouble.status and not body and trouble.times > 0:
            trouble.times -= 1
            refusal = trouble.status, ""
        if repository is None or refusal:
            self._refuse(*(refusal or (404, "RepoNotFound")))
        elif name == LARGE:
            self._elsewhere(repository, repo_id, name)
        else:
            self._bytes(repository, name, body=body)

    def _elsewhere(self, repository: Repository, repo_id: str, name: str) -> None:
        trouble, content = self.hub.trouble.get(name, Trouble()), repository.files[name]
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.hub.port}/large/{repo_id}/{name}")
        self.send_header("X-Repo-Commit", trouble.commit or repository.commit)
        digest = hashlib.sha256(content).hexdigest()
        self.send_header("X-Linked-Etag", f'"{trouble.etag or digest}"')
        self.send_header("X-Linked-Size", str(trouble.size or len(content)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _bytes(self, repository: Repository, name: str, *, body: bool) -> None:
        trouble, content = self.hub.trouble.get(name, Trouble()), repository.files[name]
        wrong = body and trouble.times > 0
        trouble.times -= wrong
        if wrong and trouble.hang:
            self.hub.end.wait(20)
        elif wrong and trouble.status:
            self._refuse(trouble.status, "")
        else:
            data = trouble.body if wrong and trouble.body is not None else content
            start = self._start(body=body)
            self._heads(repository, trouble, data, start)
            if body:
                self._send(name, data[start:], trouble, wrong=wrong)

    def _start(self, *, body: bool) -> int:
        """Return from which byte on the file is wanted."""
        asked = self.headers.get("Range")
        if not body or not asked:
            return 0
        self.hub.ranges.append(asked)
        return int(asked.removeprefix("bytes=").partition("-")[0])

    def _heads(self, repository: Repository, trouble: Trouble, data: bytes, start: int) -> None:
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", trouble.commit or repository.commit)
        self.send_header("ETag", '"' + hashlib.md5(data).hexdigest() + '"')
        if trouble.no_length:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(trouble.size or len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()

    def _send(self, name: str, piece: bytes, trouble: Trouble, *, wrong: bool) -> None:
        if trouble.cut is not None and (wrong or trouble.then_nothing):
            piece = piece[: trouble.cut if wrong else 0]
            self.close_connection = True
        self.hub.sent[name] += len(piece)  # before the client can have it, and look
        self.wfile.write(piece)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _refusal(
    repository: Repository | None, revision: str, name: str, *, token: bool
) -> tuple[int, str] | None:
    if repository is None or (repository.access == "private" and not token):
        return 401 if repository else 404, "RepoNotFound"
    if repository.access == "gated" and not token:
        return 401, "GatedRepo"
    if revision not in (repository.commit, *repository.revisions):
        return 404, "RevisionNotFound"
    return None if name in repository.files else (404, "EntryNotFound")


def _created(hub: Hub, data: bytes) -> tuple[object, int]:
    asked = json.loads(data)
    repo_id = f"{asked['organization']}/{asked['name']}"
    exists = repo_id in hub.repositories
    private = asked.get("visibility") == "private" or asked.get("private") or False
    hub.repositories.setdefault(repo_id, Repository(private=private))
    return {"url": f"{hub.url}/{repo_id}"}, 409 if exists else 200


def _planned(data: bytes) -> object:
    """Say how each file comes: tensors as large files."""
    modes = {True: "lfs", False: "regular"}
    paths = [file["path"] for file in json.loads(data)["files"]]
    plans = [(path, modes[path.endswith(".safetensors")]) for path in paths]
    return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in plans]}  # fmt: skip


def _places(hub: Hub, data: bytes) -> object:
    upload = {"upload": {"href": f"{hub.url}/put"}}
    objects = [{**one, "actions": upload} for one in json.loads(data)["objects"]]
    return {"transfer": "basic", "objects": objects}


def _committed(hub: Hub, repo_id: str, data: bytes) -> object:
    operations = [json.loads(line) for line in data.splitlines()]
    repository = hub.repositories[repo_id]
    hub.commits.append(operations)
    for operation in operations:
        value = operation["value"]
        if operation["key"] == "file":
            repository.files[value["path"]] = base64.b64decode(value["content"])
        elif operation["key"] == "lfsFile":
            repository.files[value["path"]] = hub.uploaded[value["oid"]]
    return {
        "success": True,
        "commitOid": repository.commit,
        "commitUrl": f"{hub.url}/{repo_id}/commit/{repository.commit}",
    }
