"""A registry that is honest until a test teaches it a trick.

It serves what a store holds, under any repository's name, and takes uploads. Each trick sees each
request first and may answer it in place of the registry: with wrong bytes, too many, too few.
"""

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from unionfs.oci.digest import Digest
from unionfs.oci.model import media_type_of
from unionfs.oci.store import BlobStore

__all__ = ["Hostile", "Reply", "Request", "Trick", "once"]


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """``manifests``, ``blobs``, ``uploads``, or what else the path is for."""
        found = re.search(r"/(manifests|uploads|blobs)/", self.path.replace("/blobs/uploads/", "/uploads/"))
        return found[1] if found else self.path

    @property
    def name(self) -> str:
        """The last component: a tag, a digest, an upload."""
        return self.path.rpartition("/")[2]


@dataclass
class Reply:
    """What is answered; *length* is announced if it is not None, true or not."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterator[bytes] = b""
    length: int | None = None

    @classmethod
    def of(cls, body: bytes, **headers: str) -> "Reply":
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return cls(headers=named, body=body, length=len(body))

    @classmethod
    def status_only(cls, status: int, **headers: str) -> "Reply":
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return cls(status, named, b"", 0)


Trick = Callable[[Request], Reply | None]


def once(trick: Trick) -> Trick:
    """Play *trick* until it has answered one request."""
    played = threading.Event()

    def first(request: Request) -> Reply | None:
        reply = None if played.is_set() else trick(request)
        if reply:
            played.set()
        return reply

    return first


class Hostile:
    """Use as ``with``; ``host`` is where it listens."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.tags: dict[str, Digest] = {}
        self.tricks: list[Trick] = []
        self.requests: list[Request] = []
        self.uploads: dict[str, bytearray] = {}
        self.received: dict[str, bytes] = {}
        """Uploads that were finished, by digest; manifests, by name."""
        self.sent = 0
        """Bytes of bodies that left, or tried to."""
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.host = f"127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def running(self) -> Iterator["Hostile"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def asked(self, method: str, kind: str) -> list[Request]:
        return [each for each in self.requests if each.method == method and each.kind == kind]

    def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        for trick in self.tricks:
            if reply := trick(request):
                return reply
        if request.kind == "manifests":
            return self._manifest(request)
        if request.kind == "uploads":
            return self._upload(request)
        if request.kind == "blobs":
            return self._blob(request)
        return Reply.of(b"{}")

    def _manifest(self, request: Request) -> Reply:
        if request.method == "PUT":
            self.received[request.name] = request.body
            return Reply.status_only(201)
        digest = self.tags.get(request.name) or Digest(request.name)
        if not self.store.has(digest):
            return Reply.status_only(404)
        content = self.store.get(digest)
        return Reply.of(content, Content_Type=media_type_of(content), Docker_Content_Digest=str(digest))

    def _blob(self, request: Request) -> Reply:
        digest = Digest(request.name)
        if request.name in self.received:
            content = self.received[request.name]
        elif self.store.has(digest):
            content = self.store.path(digest).read_bytes()
        else:
            return Reply.status_only(404)
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if not found:
            return Reply.of(content)
        start = int(found[1])
        reply = Reply.of(content[start:], Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}")
        reply.status = 206
        return reply

    def _upload(self, request: Request) -> Reply:
        if request.method == "POST":
            name = f"session{len(self.uploads)}"
            self.uploads[name] = bytearray()
            return self._session(name, 202)
        content = self.uploads[request.name]
        content += request.body
        if request.method != "PUT":
            return self._session(request.name, 204 if request.method == "GET" else 202)
        named = request.query["digest"][0]
        if str(Digest.of(bytes(content))) != named:
            return Reply.status_only(400)
        self.received[named] = bytes(content)
        return Reply.status_only(201, Docker_Content_Digest=named)

    def _session(self, name: str, status: int) -> Reply:
        headers = {"Location": f"/v2/x/blobs/uploads/{name}"}
        if held := len(self.uploads[name]):
            headers["Range"] = f"0-{held - 1}"
        return Reply(status, headers, b"", 0)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up: that is what many tests are about."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typeshed has it narrower


def _handler(registry: Hostile) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            url = urlsplit(self.path)
            reply = registry.answer(
                Request(
                    method=self.command,
                    path=url.path,
                    query=parse_qs(url.query),
                    headers={key.lower(): value for key, value in self.headers.items()},
                    body=self.read_body(),
                )
            )
            self.send_response(reply.status)
            for key, value in reply.headers.items():
                self.send_header(key, value)
            if reply.length is not None:
                self.send_header("Content-Length", str(reply.length))
            else:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.send_body(reply)

        def send_body(self, reply: Reply) -> None:
            sent = 0
            with contextlib.suppress(OSError):
                for chunk in [reply.body] if isinstance(reply.body, bytes) else reply.body:
                    sent += len(chunk)
                    registry.sent += len(chunk)
                    self.wfile.write(chunk)
            if reply.length != sent:
                self.close_connection = True

        def read_body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", "0")))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any  # noqa: N815  http.server's names

        def log_message(self, *_args: object) -> None:
            return

    return Handler
