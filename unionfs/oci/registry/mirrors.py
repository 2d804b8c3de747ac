"""Which hosts are asked for an image, in which order, and what one failing means.

A reference and a configuration go in, a tuple of attempts comes out: the mirrors of the reference's
registry as the user listed them, then the registry itself. Nothing here opens a connection.

The rules, each because its absence surprised somebody (containerd#4531, #7321, #9206, podman#14306):

1. A mirror is asked only for what it has the right to: ``resolve`` (say which digest a tag means)
   or ``pull`` (hand out content by digest, which is checked, so that a mirror without ``resolve``
   need not be trusted at all).
2. Every mirror says ``fallback = true`` or ``false``; there is no default to be surprised by.
   ``true``: any failure (unreachable, 404, 401, 5xx, wrong content) moves on to the next attempt.
   ``false``: any failure ends the pull with that failure; later attempts, the registry itself
   included, are not made.
3. Lacking a right is no failure: the attempt is passed over, whatever its ``fallback`` says.
4. Credentials belong to one host. A mirror gets its own (written in its entry, or docker's for its
   host), never the registry's.
5. Content goes out to the registry itself only: mirrors are never pushed to.
"""

import enum
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from unionfs.errors import ConfigError
from unionfs.oci.reference import DEFAULT_REGISTRY, Reference, is_registry

__all__ = ["Attempt", "Endpoint", "Login", "Mirror", "Registries", "Registry", "Right", "Scheme"]

_SERVERS: Final = {DEFAULT_REGISTRY: "registry-1.docker.io"}
"""Registries whose API answers under another host than their name."""


class Right(enum.StrEnum):
    """What a host may be asked for."""

    RESOLVE = "resolve"
    """Which digest a tag means. There is nothing to check the answer against."""
    PULL = "pull"
    """Manifests and blobs by digest. A wrong answer is noticed and dropped."""


ALL_RIGHTS: Final = frozenset(Right)


class Scheme(enum.StrEnum):
    """How a host is spoken to."""

    HTTPS = "https"
    HTTP = "http"
    """Only where the configuration says so."""
    PROBE = "probe"
    """A loopback host nothing was said about: TLS if it speaks TLS, else plain HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Credentials written in the configuration; without a username, none are ever sent."""

    username: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    """Read when it is needed, one trailing newline dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One host that speaks the distribution protocol, and how to reach it."""

    host: str
    """``HOST`` or ``HOST:PORT``."""
    scheme: Scheme = Scheme.HTTPS
    prefix: str = ""
    """What stands before ``/v2/`` in its URLs: empty, or ``/a/path``."""
    ca: Path | None = None
    """PEM file of authorities that are believed besides the system's."""
    client_cert: Path | None = None
    client_key: Path | None = None
    login: Login | None = None
    """None: docker's credentials for ``host``, if there are any."""

    @property
    def url(self) -> str:
        scheme = Scheme.HTTPS if self.scheme is Scheme.PROBE else self.scheme
        return f"{scheme}://{self.host}{self.prefix}"

    def __str__(self) -> str:
        return self.url if self.scheme is not Scheme.PROBE else f"{self.host}{self.prefix}"

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """Read the ``url`` of a mirror.

        Raises:
            ConfigError: it is not ``http[s]://HOST[:PORT][/PREFIX]``.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not is_registry(parts.netloc):
            raise ConfigError(f"not a mirror's URL: {url!r}; write https://HOST[:PORT][/PREFIX]")
        if parts.query or parts.fragment:
            raise ConfigError(f"a mirror's URL has no '?' or '#': {url!r}; leave that part out")
        return cls(host=parts.netloc, scheme=Scheme(parts.scheme), prefix=parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A host that stands in for a registry."""

    endpoint: Endpoint
    fallback: bool
    rights: frozenset[Right] = ALL_RIGHTS
    rewrite: Mapping[str, str] = field(default_factory=dict)
    """Prefix of a repository, in whole components -> what stands there on this mirror."""
    namespace: bool = False
    """Add ``?ns=REGISTRY`` to requests, as containerd does, for a mirror of many registries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What the configuration says of one registry."""

    endpoint: Endpoint
    mirrors: tuple[Mirror, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One host to ask, under the repository's name there."""

    endpoint: Endpoint
    repository: str
    rights: frozenset[Right] = ALL_RIGHTS
    fallback: bool = False
    namespace: str | None = None
    """The registry this host stands in for, where it wants to be told."""

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.repository}"


@dataclass(frozen=True, slots=True)
class Registries:
    """The whole configuration; empty, every registry is asked itself, over TLS."""

    tables: Mapping[str, Registry] = field(default_factory=dict)

    def attempts(self, reference: Reference) -> tuple[Attempt, ...]:
        """The hosts to ask for *reference*, first to last; never empty, the registry is the last."""
        mirrors = self._registry(reference.registry).mirrors
        return (*(_at_mirror(mirror, reference) for mirror in mirrors), self.origin(reference))

    def origin(self, reference: Reference) -> Attempt:
        """The registry itself: the last to be asked, the only one to be pushed to."""
        return Attempt(endpoint=self.endpoint(reference.registry), repository=reference.repository)

    def endpoint(self, registry: str) -> Endpoint:
        return self._registry(registry).endpoint

    def _registry(self, name: str) -> Registry:
        return self.tables.get(name) or Registry(endpoint=default_endpoint(name))


def default_endpoint(registry: str) -> Endpoint:
    """How a registry is reached that the configuration does not name."""
    scheme = Scheme.PROBE if is_loopback(registry) else Scheme.HTTPS
    return Endpoint(host=_SERVERS.get(registry, registry), scheme=scheme)


def is_loopback(host: str) -> bool:
    """True if ``HOST[:PORT]`` can only be this machine, judged by its text alone."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def rewritten(repository: str, rules: Mapping[str, str]) -> str:
    """Apply the rule with the longest matching prefix; the empty prefix matches everything.

    >>> rewritten("library/debian", {"library": "hub/official", "": "hub"})
    'hub/official/debian'
    >>> rewritten("libraryx/debian", {"library": "hub"})
    'libraryx/debian'
    """
    parts = repository.split("/")
    for length in range(len(parts), -1, -1):
        target = rules.get("/".join(parts[:length]))
        if target is not None:
            return "/".join(part for part in (target, *parts[length:]) if part)
    return repository


def _at_mirror(mirror: Mirror, reference: Reference) -> Attempt:
    return Attempt(
        endpoint=mirror.endpoint,
        repository=rewritten(reference.repository, mirror.rewrite),
        rights=mirror.rights,
        fallback=mirror.fallback,
        namespace=reference.registry if mirror.namespace else None,
    )
