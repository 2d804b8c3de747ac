"""Real registries on loopback: Debian's docker-registry, its TLS and its token server.

Each is a process or thread of one test, on a port the kernel chose, with its files in the test's
directory; all are ended by the fixture that started them.
"""

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

__all__ = ["HTPASSWD", "PASSWORD", "USER", "Authority", "TokenServer", "free_port", "needs", "registry"]

USER, PASSWORD = "user", "secret"
HTPASSWD = f"{USER}:$2y$05$Z4SMRVa7j7cqnTaGf5PSMemVwXTDMGwQ8p2Sp.yeTb1Bu/9XoWn8W\n"
"""What ``htpasswd -nbB user secret`` printed; docker-registry takes bcrypt only."""

START_SECONDS = 20


def needs(program: str, package: str | None = None) -> str:
    """Return the program's path, or skip the test, naming the package that has it."""
    path = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        pytest.skip(f"needs {program}: apt-get install {package or program}")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def registry(directory: Path, **sections: object) -> Iterator[str]:
    """Run docker-registry with these sections of its configuration; yield ``HOST:PORT``."""
    program = needs("docker-registry")
    directory.mkdir(parents=True)
    host = f"127.0.0.1:{free_port()}"
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
    }
    config |= sections
    http = sections.get("http")
    config["http"] = {"addr": host, "relativeurls": True, **(http if isinstance(http, dict) else {})}
    (directory / "config.yml").write_text(json.dumps(config), encoding="ascii")  # JSON is YAML
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen([program, "serve", directory / "config.yml"], stdout=log, stderr=log)
        try:
            await_port(host, server, directory / "log")
            yield host
        finally:
            server.kill()
            server.wait()


def await_port(host: str, server: subprocess.Popen[bytes], log: Path) -> None:
    name, port = host.split(":")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((name, int(port)), 1):
            return
        time.sleep(0.02)
    pytest.fail(f"docker-registry did not start: {log.read_text(errors='replace')}")


class Authority:
    """A certificate authority nobody knows but the test, and certificates of it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self.certificate = directory / "ca.pem"
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority",
                      "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                      "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip

    def issue(self, name: str, *, alternative: str = "IP:127.0.0.1") -> tuple[Path, Path]:
        """Return certificate and key of a server."""
        extensions = f"subjectAltName={alternative}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        (self._directory / f"{name}.ext").write_text(extensions, encoding="ascii")
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        command = [needs("openssl"), *arguments]
        subprocess.run(command, cwd=self._directory, check=True, capture_output=True, timeout=60)


@dataclass
class TokenServer:
    """Issues tokens that docker-registry believes: JWTs signed by a key whose certificate it holds."""

    directory: Path
    authority: Authority
    service: str = "test-registry"
    requests: list[dict[str, list[str]]] = field(default_factory=list)
    """The query of each request that was answered."""
    refused: int = 0

    def __post_init__(self) -> None:
        self.certificate, self._key = self.authority.issue("token")
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_port}/token"

    def settings(self) -> dict[str, object]:
        """Return the ``auth`` section for docker-registry."""
        token = {"realm": self.url, "service": self.service, "issuer": "test",
                 "rootcertbundle": str(self.certificate)}  # fmt: skip
        return {"token": token}

    @contextlib.contextmanager
    def running(self) -> Iterator["TokenServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def token(self, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": "test", "aud": self.service, "sub": USER, "exp": now + 300, "nbf": now - 5, "iat": now,
                  "jti": str(now), "access": access}  # fmt: skip
        chain = [base64.b64encode(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).decode()]
        head = {"alg": "RS256", "typ": "JWT", "x5c": chain}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        command = [needs("openssl"), "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(command, input=signed.encode(), check=True, capture_output=True).stdout
        return f"{signed}.{_base64url(signature)}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                given = self.headers.get("Authorization")
                pushing = any("push" in scope for scope in query.get("scope", []))
                if given not in {None, wanted} or (pushing and given is None):
                    tokens.refused += 1
                    self.send_response(401)
                    self.end_headers()
                    return
                tokens.requests.append(query)
                body = json.dumps({"token": tokens.token(query.get("scope", [])), "expires_in": 300}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                return

        return Handler


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
