"""Image references: what a user types, and what it means in full.

    [REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]

Rule 1: only here is it decided that ``debian`` means ``docker.io/library/debian:latest``.
Rule 2: nothing here asks a network or a store: text goes in, a value comes out.

Source: github.com/distribution/reference, ``regexp.go`` and ``normalize.go``; docker, podman and
skopeo read references by the same grammar.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from unionfs.errors import ImageError, MalformedName
from unionfs.oci.digest import Digest

__all__ = ["DEFAULT_REGISTRY", "Reference", "canonical", "is_registry"]

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
OFFICIAL: Final = "library"
"""The repository prefix of docker.io's images that are named by one word."""

MAX_REPOSITORY: Final = 255

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
_WORD = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_WORD}(?:/{_WORD})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX: Final = re.compile(r"[a-f0-9]{64}")

_ALIASES: Final = {"index.docker.io": DEFAULT_REGISTRY, "registry-1.docker.io": DEFAULT_REGISTRY}
"""Other names of one registry; a reference keeps the first name only."""


def is_registry(text: str) -> bool:
    """Return whether *text* is ``HOST`` or ``HOST:PORT``, an IPv6 address in brackets included."""
    return _REGISTRY.fullmatch(text) is not None


def canonical(registry: str) -> str:
    """Return the one name that a registry of several has in references."""
    return _ALIASES.get(registry, registry)


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A name in a registry, checked and complete: a Reference in hand can be asked for.

    At least one of *tag* and *digest* is set. With both, the digest decides what is fetched and
    the tag is only remembered.

    >>> str(Reference.parse("debian"))
    'docker.io/library/debian:latest'
    >>> Reference.parse("docker.io/library/debian:12").familiar
    'debian:12'
    >>> Reference.parse("Debian")
    Traceback (most recent call last):
    ...
    unionfs.errors.MalformedName: not a repository: 'library/Debian'; it must be lower case
    """

    registry: str
    repository: str
    tag: str | None = DEFAULT_TAG
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if not is_registry(self.registry):
            raise MalformedName(f"not a registry: {self.registry!r}; write HOST or HOST:PORT")
        if not _REPOSITORY.fullmatch(self.repository):
            raise MalformedName(f"not a repository: {self.repository!r}; {_cure(self.repository)}")
        if len(self.repository) > MAX_REPOSITORY:
            raise MalformedName(f"the repository's name is longer than {MAX_REPOSITORY} characters")
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise MalformedName(f"not a tag: {self.tag!r}; use letters, digits, '_', '.', '-'")
        if self.tag is None and self.digest is None:
            raise MalformedName(f"neither tag nor digest: {self.name}")

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read what a user typed.

        Raises:
            MalformedName: the text is no reference; the message says which part and what is allowed.
        """
        name, at, digest_text = text.partition("@")
        try:
            digest = Digest(digest_text) if at else None
        except ImageError as error:
            raise MalformedName(f"{text!r}: {error}; write NAME@sha256:HEX, with 64 hex digits") from None
        name, tag = _split_tag(name)
        if not name:
            raise MalformedName(f"not an image reference: {text!r}")
        if _HEX.fullmatch(name):
            raise MalformedName(f"not a repository: {name!r}; 64 hex digits would read as an image id")
        registry, repository = _split_registry(name)
        if tag is None and digest is None:
            tag = DEFAULT_TAG
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """Registry and repository, in full."""
        return f"{self.registry}/{self.repository}"

    @property
    def wanted(self) -> str:
        """What the registry is asked for: the digest if there is one, else the tag."""
        return str(self.digest or self.tag)

    @property
    def familiar_name(self) -> str:
        """The shortest text that means ``name``, as docker's listings print it."""
        official = self.repository.removeprefix(f"{OFFICIAL}/")
        for short in (official, self.repository):
            if _split_registry(short) == (self.registry, self.repository) and not _HEX.fullmatch(short):
                return short
        return self.name

    @property
    def familiar(self) -> str:
        """The shortest text that parses to this reference."""
        return self.familiar_name + self._suffix()

    def pinned(self, digest: Digest) -> "Reference":
        """Return the same name, bound to one content."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag


def _split_tag(text: str) -> tuple[str, str | None]:
    """Split at a colon after the last slash: it starts a tag, one before it a port."""
    head, colon, tail = text.rpartition(":")
    if not colon or "/" in tail:
        return text, None
    return head, tail


def _split_registry(name: str) -> tuple[str, str]:
    """Take the first component for a registry if it could not be a repository of docker.io.

    Source: ``splitDockerDomain``: a dot, a colon, an upper-case letter, or ``localhost``.
    """
    first, slash, rest = name.partition("/")
    named = any(mark in first for mark in ".:") or first != first.lower() or first == "localhost"
    registry, repository = (first, rest) if slash and named else (DEFAULT_REGISTRY, name)
    registry = canonical(registry)
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"{OFFICIAL}/{repository}"
    return registry, repository


def _cure(repository: str) -> str:
    if repository != repository.lower():
        return "it must be lower case"
    return "use lower-case letters, digits and single '.', '_', '-' between them"
