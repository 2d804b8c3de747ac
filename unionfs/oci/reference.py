"""Names of images, as people type them and as they are stored.

``debian`` means ``docker.io/library/debian:latest``: the rules are docker's, because they are the ones
everybody's scripts rely on. A Reference in hand is complete; ``familiar`` is the short form for tables.

Source: github.com/distribution/reference, normalize.go and regexp.go.
"""

import re
from dataclasses import dataclass
from typing import Final

from unionfs.errors import ImageError
from unionfs.oci.digest import Digest

__all__ = ["DEFAULT_REGISTRY", "Reference"]

DEFAULT_REGISTRY: Final = "docker.io"
"""The registry of a name that names none."""

_DOMAIN: Final = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
)
_PATH: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """One image by name: construction is the check."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if not _DOMAIN.fullmatch(self.registry):
            raise ImageError(f"not a registry name: {self.registry!r}")
        if not _PATH.fullmatch(self.repository):
            why = "; names are lower case" if self.repository != self.repository.lower() else ""
            raise ImageError(f"not a repository name: {self.repository!r}{why}")
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise ImageError(f"not a tag: {self.tag!r}")

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Complete what *text* leaves out.

        >>> str(Reference.parse("debian"))
        'docker.io/library/debian:latest'
        >>> str(Reference.parse("localhost:5000/a/b:v1"))
        'localhost:5000/a/b:v1'
        >>> Reference.parse("docker.io/library/debian:12").familiar
        'debian:12'
        >>> Reference.parse("Debian")
        Traceback (most recent call last):
        ...
        unionfs.errors.ImageError: not a repository name: 'library/Debian'; names are lower case
        """
        name, _, digest = text.partition("@")
        head, slash, rest = name.partition("/")
        if not slash or not ("." in head or ":" in head or head == "localhost" or head != head.lower()):
            head, rest = DEFAULT_REGISTRY, name
        path, _, tag = rest.partition(":")
        if head in {"docker.io", "index.docker.io"}:
            head = DEFAULT_REGISTRY
            path = path if "/" in path else f"library/{path}"
        return cls(
            registry=head,
            repository=path,
            tag=tag or (None if digest else "latest"),
            digest=Digest(digest) if digest else None,
        )

    @property
    def name(self) -> str:
        """Registry and repository, without tag or digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar_name(self) -> str:
        """``name`` as docker shows it: without what it would complete."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        return self.repository.removeprefix("library/")

    @property
    def familiar(self) -> str:
        """The whole reference as docker shows it."""
        return self.familiar_name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()
