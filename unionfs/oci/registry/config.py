"""``registries.toml``: the file in which a user names mirrors and private registries.

    [registry."docker.io"]                 # the name as references have it
    ca = "/etc/ssl/our-ca.pem"             # optional; client_cert and client_key, too
    plain_http = false                     # true: no TLS; said nowhere else but for loopback

    [[registry."docker.io".mirror]]        # asked in this order, before the registry itself
    url = "https://mirror.example/hub"
    fallback = true                        # required: may the pull go on when this one fails?
    rights = ["resolve", "pull"]           # the default
    rewrite = { "library" = "official" }   # library/debian is official/debian there
    username = "me"                        # else docker's credentials for this host
    password_file = "/etc/unionfs/mirror.secret"      # or password = "..."
    anonymous = false                      # true: send no credentials, even if docker has some
    namespace = false                      # true: add ?ns=docker.io to requests

``$UNIONFS_REGISTRIES`` names the file to read; without it ``/etc/unionfs/registries.toml`` and
``$XDG_CONFIG_HOME/unionfs/registries.toml`` are read, and what the user's says of a registry
replaces all that the system's says of it. Unknown keys are errors: a misspelt ``fallback`` that
is ignored would be a mirror rule that surprises.
"""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from unionfs.errors import ConfigError
from unionfs.oci.reference import canonical, is_registry
from unionfs.oci.registry.explain import explained
from unionfs.oci.registry.mirrors import (
    ALL_RIGHTS,
    Endpoint,
    Login,
    Mirror,
    Registries,
    Registry,
    Right,
    Scheme,
    default_endpoint,
)

__all__ = ["load", "parse"]


class _Access(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The keys that a registry and a mirror share."""

    ca: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    username: str = ""
    password: str = ""
    password_file: str | None = None
    anonymous: bool = False


class _Mirror(_Access, forbid_unknown_fields=True, kw_only=True):
    url: str
    fallback: bool
    rights: frozenset[Right] = ALL_RIGHTS
    rewrite: dict[str, str] = {}
    namespace: bool = False


class _Registry(_Access, forbid_unknown_fields=True, kw_only=True):
    plain_http: bool = False
    mirror: list[_Mirror] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    registry: dict[str, object] = {}


_KEYS: Final = {"": _Registry.__struct_fields__, "mirror": _Mirror.__struct_fields__}


def load() -> Registries:
    """Read the configuration of whoever runs this; empty if there is none.

    Raises:
        ConfigError: a file is malformed; the message names the file and the key.
    """
    tables: dict[str, Registry] = {}
    for path in _files():
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except UnicodeDecodeError as exc:
            raise ConfigError(f"{path}: not UTF-8 at byte {exc.start}; save it as UTF-8") from None
        tables |= parse(text, str(path)).tables
    return Registries(tables)


def parse(text: str, origin: str = "registries.toml") -> Registries:
    """Read one file's text; *origin* is its name in messages."""
    try:
        content = msgspec.convert(tomllib.loads(text), _File)
        return Registries(_tables(content))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{origin}: not TOML: {exc}; correct it there") from None
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{origin}: {explained(str(exc), '', {'': _File.__struct_fields__})}") from None
    except ConfigError as exc:
        raise ConfigError(f"{origin}: {exc}") from None


def _tables(content: _File) -> dict[str, Registry]:
    tables: dict[str, Registry] = {}
    for name, raw in content.registry.items():
        where = f'registry."{name}"'
        try:
            table = _registry(name, msgspec.convert(raw, _Registry))
        except msgspec.ValidationError as exc:
            raise ConfigError(explained(str(exc), where, _KEYS)) from None
        except ConfigError as exc:
            raise ConfigError(f"{where}: {exc}") from None
        if canonical(name) in tables:
            raise ConfigError(f"{where}: {canonical(name)} has a table already; put both into one")
        tables[canonical(name)] = table
    return tables


def _files() -> Iterator[Path]:
    named = os.environ.get("UNIONFS_REGISTRIES")
    if named:
        if not Path(named).is_file():  # said on purpose: its absence is no default
            raise ConfigError(f"UNIONFS_REGISTRIES: no such file: {named}")
        yield Path(named)
        return
    yield Path("/etc/unionfs/registries.toml")
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    yield Path(home, "unionfs", "registries.toml")


def _registry(name: str, table: _Registry) -> Registry:
    if not is_registry(name):
        raise ConfigError("no registry is called that; write HOST or HOST:PORT, as references have it")
    endpoint = _access(default_endpoint(canonical(name)), table, name)
    if table.plain_http:
        endpoint = replace(endpoint, scheme=Scheme.HTTP)
    return Registry(endpoint=endpoint, mirrors=tuple(_mirror(each) for each in table.mirror))


def _mirror(table: _Mirror) -> Mirror:
    if not table.rights:
        raise ConfigError(f"{table.url}: a mirror without rights is never asked; remove it")
    return Mirror(
        endpoint=_access(Endpoint.parse(table.url), table, table.url),
        fallback=table.fallback,
        rights=table.rights,
        rewrite={old.strip("/"): new.strip("/") for old, new in table.rewrite.items()},
        namespace=table.namespace,
    )


def _access(endpoint: Endpoint, table: _Access, where: str) -> Endpoint:
    if table.password and table.password_file:
        raise ConfigError(f"{where}: password and password_file; write one of them")
    secret = bool(table.password or table.password_file)
    if bool(table.username) != secret:
        raise ConfigError(f"{where}: username and password (or password_file) go together; write both or neither")
    if table.anonymous and secret:
        raise ConfigError(f"{where}: anonymous, and yet a password; write one of them")
    if (table.client_cert is None) != (table.client_key is None):
        raise ConfigError(f"{where}: client_cert and client_key go together; write both or neither")
    return replace(
        endpoint,
        ca=_path(table.ca),
        client_cert=_path(table.client_cert),
        client_key=_path(table.client_key),
        login=_login(table),
    )


def _login(table: _Access) -> Login | None:
    if not table.username and not table.anonymous:
        return None
    return Login(
        username=table.username,
        password=table.password,
        password_file=_path(table.password_file),
    )


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None
