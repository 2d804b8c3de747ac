"""Docker's credentials: read where docker, podman-docker and CI systems already wrote them.

    $DOCKER_CONFIG/config.json, else ~/.docker/config.json
      credHelpers   {"registry": NAME}     the program docker-credential-NAME knows this one
      credsStore    NAME                   ... knows all the others
      auths         {"registry": {"auth": base64("user:password")}}

They are asked in this order; a helper that is named but not installed is an error and not an
anonymous request, because "access denied" would hide the cause. What ``login`` writes goes where
docker would write it, every key we do not know is kept, and the file is replaced in one rename.

What docker's file does not know is looked up in podman's, which have the same form:

    $XDG_RUNTIME_DIR/containers/auth.json (/run/containers/UID/auth.json), then
    $XDG_CONFIG_HOME/containers/auth.json

``$REGISTRY_AUTH_FILE`` names one file instead of all these, as it does for podman. An entry for a part of
a registry (``quay.io/team``), as podman writes them, is for the repositories below it and for nobody
else; in its file it comes before the registry's own, the longest one first.

Source: github.com/docker/cli ``cli/config``; github.com/docker/docker-credential-helpers;
containers-auth.json(5).
"""

import base64
import binascii
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from unionfs.errors import ConfigError
from unionfs.oci.reference import DEFAULT_REGISTRY, canonical

__all__ = ["Credential", "DockerConfig", "config_path", "server_key"]

_HUB: Final = "https://index.docker.io/v1/"
"""docker.io's key in the file and for the helpers."""

_TOKEN_USER: Final = "<token>"  # noqa: S105  a marker of the protocol, not a secret
"""The username under which a helper hands out an identity token."""

_NOT_FOUND: Final = "credentials not found"
_PART: Final = re.compile(r"(?!https?://)[^/]+/(?!v[12](/|$))[^/]")
"""A key of podman's for some repositories of a registry."""
_HELPER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HELPER_SECONDS: Final = 60
"""A helper may ask its user to unlock a key ring."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Either a name and a password, or an identity token for the token server."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


def config_path() -> Path:
    """Return the file that ``login`` writes, and that is asked first."""
    if said := os.environ.get("REGISTRY_AUTH_FILE"):
        return Path(said)
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    return Path(folder, "config.json")


def _podman_paths() -> list[Path]:
    if os.environ.get("REGISTRY_AUTH_FILE"):
        return []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    fleeting = Path(runtime, "containers") if runtime else Path("/run/containers", str(os.geteuid()))
    lasting = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "containers")
    return [fleeting / "auth.json", lasting / "auth.json"]


def server_key(host: str) -> str:
    """How docker's file names a registry or an API host."""
    return _HUB if canonical(host) == DEFAULT_REGISTRY else host


@dataclass(slots=True)
class DockerConfig:
    """One config.json. ``content`` is the whole file, keys we do not know included."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    others: list["DockerConfig"] = field(default_factory=list)
    """Files of the same form, for what this one does not know."""

    @classmethod
    def load(cls, path: Path | None = None) -> "DockerConfig":
        """Read the file, or docker's and podman's; a missing one is an empty one.

        Raises:
            ConfigError: a file is there, but cannot be understood.
        """
        if path is None:
            found = cls._read(config_path())
            found.others = [cls._read(other) for other in _podman_paths()]
            return found
        return cls._read(path)

    @classmethod
    def _read(cls, path: Path) -> "DockerConfig":
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls(path)
        except ValueError as exc:
            raise ConfigError(f"{path}: not JSON: {exc}; correct or remove it") from None
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: not a JSON object; correct or remove it")
        return cls(path, content)

    def get(self, host: str, repository: str = "") -> Credential | None:
        """The credentials for ``HOST[:PORT]``, and there for *repository*; or None. May run a helper program."""
        key = server_key(host)
        mine = self._of_part(host, repository)
        if mine is None:
            helper = self._helper(key)
            mine = (_ask_helper(helper, key) if helper else None) or self._written(self._find(key))
        return mine or next(filter(None, (other.get(host, repository) for other in self.others)), None)

    def _of_part(self, host: str, repository: str) -> Credential | None:
        parts = repository.split("/") if repository else []
        names = ["/".join((canonical(host), *parts[:length])) for length in range(len(parts), 0, -1)]
        return self._written([name for name in names if name in self._auths()])

    def store(self, host: str, credential: Credential) -> str:
        """Remember *credential*; return where, in words for the user."""
        key = server_key(host)
        if helper := self._helper(key):
            _run_helper(helper, "store", _helper_entry(key, credential))
        # With a helper an empty entry stays behind: docker lists from here what it is logged in to.
        entry = {} if helper else _written_entry(credential)
        self.content["auths"] = self._auths() | {key: entry}
        self._save()
        return f"credential helper {helper}" if helper else str(self.path)

    def erase(self, host: str) -> bool:
        """Forget the credentials for *host*, wherever they are; False if there were none."""
        elsewhere = [other.erase(host) for other in self.others]
        key = server_key(host)
        known = self._find(key)
        helper = self._helper(key)
        held = bool(helper and _ask_helper(helper, key))
        if helper and held:
            _run_helper(helper, "erase", key)
        if known:
            self.content["auths"] = {name: it for name, it in self._auths().items() if name not in known}
            self._save()
        return bool(known) or held or any(elsewhere)

    def _helper(self, key: str) -> str | None:
        helpers = self._section("credHelpers")
        name = helpers.get(key) or helpers.get(_host(key)) or self.content.get("credsStore")
        if name and not _HELPER_NAME.fullmatch(str(name)):
            raise ConfigError(f"{self.path}: not a credential helper's name: {name!r}")
        return str(name) if name else None

    def _auths(self) -> dict[str, Any]:
        return self._section("auths")

    def _section(self, key: str) -> dict[str, Any]:
        section = self.content.get(key) or {}
        if not isinstance(section, dict):
            raise ConfigError(f"{self.path}: {key} is not an object; correct or remove it")
        return section

    def _find(self, key: str) -> list[str]:
        """The names under which *key* is written: exact first, then as some URL of its host."""
        exact = [name for name in self._auths() if name == key]
        return exact + [
            name for name in self._auths() if name != key and _host(name) == _host(key) and not _PART.match(name)
        ]

    def _written(self, names: list[str]) -> Credential | None:
        for name in names:
            entry = self._auths()[name]
            credential = _read_entry(entry, self.path) if isinstance(entry, dict) else None
            if credential:
                return credential
        return None

    def _save(self) -> None:
        target = Path(os.path.realpath(self.path))  # a link into a dotfiles tree stays a link
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".config-", delete=False) as out:
            try:
                out.write(json.dumps(self.content, indent="\t").encode() + b"\n")
                out.flush()
                os.fsync(out.fileno())
                os.rename(out.name, target)  # mode 0600, as mkstemp made it
            except BaseException:
                os.unlink(out.name)
                raise


def _host(key: str) -> str:
    """The host of a key, which may be a URL of any API version."""
    host = re.sub(r"^https?://", "", key).split("/", 1)[0]
    return canonical(host)


def _read_entry(entry: dict[str, Any], path: Path) -> Credential | None:
    token = entry.get("identitytoken")
    if token:
        return Credential(identity_token=str(token))
    if entry.get("auth"):
        try:
            pair = base64.b64decode(str(entry["auth"]), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise ConfigError(f"{path}: an 'auth' is not base64; log in again") from None
        username, colon, password = pair.partition(":")
        if not colon:
            raise ConfigError(f"{path}: an 'auth' is not USER:PASSWORD; log in again")
        return Credential(username, password.rstrip("\0"))
    if entry.get("username"):
        return Credential(str(entry["username"]), str(entry.get("password", "")))
    return None


def _written_entry(credential: Credential) -> dict[str, str]:
    if credential.identity_token:
        return {"identitytoken": credential.identity_token}
    return {"auth": credential.basic().removeprefix("Basic ")}


def _helper_entry(key: str, credential: Credential) -> str:
    token = credential.identity_token
    name, secret = (_TOKEN_USER, token) if token else (credential.username, credential.password)
    return json.dumps({"ServerURL": key, "Username": name, "Secret": secret})


def _ask_helper(name: str, key: str) -> Credential | None:
    answer = _run_helper(name, "get", key)
    if answer is None:
        return None
    try:
        entry = json.loads(answer)
        username, secret = str(entry["Username"]), str(entry["Secret"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"docker-credential-{name} get: the answer is not what it should be") from None
    if not username and not secret:
        return None
    if username == _TOKEN_USER:
        return Credential(identity_token=secret)
    return Credential(username, secret)


def _run_helper(name: str, verb: str, text: str) -> str | None:
    """Run a helper and return its stdout; None for its one answer that means "I have none"."""
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, verb],
            input=text,
            capture_output=True,
            text=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError(
            f"{program} is not installed, but docker's config.json wants it; "
            "install it, or remove credsStore/credHelpers there"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{program} {verb}: no answer in {_HELPER_SECONDS} s") from None
    if done.returncode == 0:
        return done.stdout
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    if said and _NOT_FOUND in said[0]:
        return None
    raise ConfigError(f"{program} {verb}: {said[0] if said else f'status {done.returncode}'}")
