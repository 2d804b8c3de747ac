"""The distribution protocol, one method for each thing a registry can be asked.

Rule 1: what is asked for by digest is checked before anybody else sees it, a manifest here, a blob
by whoever writes it (`oci.store.BlobWriter`), because only he knows when it is whole.
Rule 2: nothing here decides whom to ask, how often, or what a failure means for the image.
Rule 3: every body has a limit: a document's is MAX_MANIFEST, a blob's the size in its descriptor.

Source: github.com/opencontainers/distribution-spec, spec.md.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx
import msgspec
import trio

from unionfs.errors import ImageError
from unionfs.oci.digest import Digest, DigestMismatch
from unionfs.oci.model import INDEX_TYPES, MANIFEST_TYPES
from unionfs.oci.registry.bodies import document, raw
from unionfs.oci.registry.credentials import DockerConfig
from unionfs.oci.registry.failures import NotNow, Refused
from unionfs.oci.registry.mirrors import Attempt, Endpoint
from unionfs.oci.registry.transport import Ask, Transport
from unionfs.oci.store import SizeMismatch

__all__ = ["Client", "Document", "Incoming", "Upload", "ping"]

ACCEPT: Final = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
"""All that can be understood. A registry converts, or refuses, according to this list."""

MAX_MANIFEST: Final = 4 << 20
"""Bytes. Source: distribution-spec, "registries SHOULD enforce some limit … 4 megabytes"."""

DOCUMENT_SECONDS: Final = 120
"""A manifest that dribbles in for longer is not coming."""

TAGS_A_PAGE: Final = 1000
MAX_PAGES: Final = 100

_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_RECEIVED: Final = re.compile(r"(?:bytes=)?0-(\d+)")


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index, its bytes checked against the digest it was asked for by."""

    content: bytes
    media_type: str | None
    """What the host called it."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A blob on its way: its bytes from *offset* on."""

    offset: int
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session; the host names a new place for it in each answer."""

    location: str


class Client:
    """One host, under the name an attempt gives the repository there."""

    def __init__(self, transport: Transport, attempt: Attempt) -> None:
        self._transport = transport
        self._repository = attempt.repository
        self._params = {"ns": attempt.namespace} if attempt.namespace else {}

    @classmethod
    @asynccontextmanager
    async def of(cls, attempt: Attempt, config: DockerConfig) -> AsyncIterator["Client"]:
        """Make a client with a connection pool of its own."""
        async with Transport(attempt.endpoint, config, attempt.repository) as transport:
            yield cls(transport, attempt)

    async def resolve(self, tag: str) -> Digest:
        """Ask which digest *tag* means; the answer is the host's word and nothing else.

        A HEAD request, which rate limits do not count; a GET where its answer says nothing.
        """
        try:
            async with self._transport.ask(self._manifest("HEAD", tag)) as response:
                said = response.headers.get("docker-content-digest")
        except Refused as exc:
            if exc.status != httpx.codes.METHOD_NOT_ALLOWED:
                raise
            said = None
        if said:
            return self._named(said)
        async with self._transport.ask(self._manifest("GET", tag)) as response:
            return Digest.of(await self._document(response))

    async def manifest(self, digest: Digest) -> Document:
        """Fetch a manifest or index.

        Raises:
            DigestMismatch: the host sent another one.
        """
        async with self._transport.ask(self._manifest("GET", str(digest))) as response:
            content = await self._document(response)
            said = response.headers.get("content-type", "").partition(";")[0].strip()
        if (got := Digest.of(content)) != digest:
            raise DigestMismatch(str(digest), str(got))
        return Document(content, said or None)

    async def tags(self) -> list[str]:
        """Return the repository's tags, from as many pages as they come on."""
        url, params, found = f"{self._repository}/tags/list", {"n": str(TAGS_A_PAGE)} | self._params, []
        for _ in range(MAX_PAGES):
            async with self._transport.ask(
                Ask(method="GET", url=url, scopes=[self._scope("pull")], params=params)
            ) as response:
                found += self._tags_in(await self._document(response))
                link = response.links.get("next", {}).get("url")
                if not link:
                    return found
                url, params = str(response.url.join(link)), {}
        raise Refused(f"{self._transport.endpoint}: more than {MAX_PAGES} pages of tags")

    def _tags_in(self, page: bytes) -> list[str]:
        try:
            return msgspec.json.decode(page, type=_Tags).tags or []
        except msgspec.MsgspecError as exc:
            raise Refused(f"{self._transport.endpoint}: not a list of tags: {exc}") from None

    async def has_blob(self, digest: Digest) -> bool:
        """Return whether the repository holds the blob."""
        return await self._has(self._push("HEAD", f"blobs/{digest}"))

    async def has_manifest(self, digest: Digest) -> bool:
        """Return whether the repository holds the manifest or index."""
        return await self._has(self._push("HEAD", f"manifests/{digest}", Accept=ACCEPT))

    @asynccontextmanager
    async def blob(self, digest: Digest, size: int, offset: int = 0) -> AsyncIterator[Incoming]:
        """Open a blob of *size* bytes from *offset* on, or from 0 where the host cannot do that.

        Raises:
            SizeMismatch: the host announces another length.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        ask = self._pull("GET", f"blobs/{digest}", **headers)
        async with open_blob(self._transport, ask, digest, size, offset) as incoming:
            yield incoming

    async def start_upload(self, mount: Digest | None = None, source: str | None = None) -> Upload | None:
        """Begin an upload; None if the host took *mount* over from its repository *source*."""
        params = {}
        scopes = [self._scope("pull,push")]
        if mount and source:
            params = {"mount": str(mount), "from": source}
            scopes.append(f"repository:{source}:pull")
        ask = Ask(
            method="POST",
            url=f"{self._repository}/blobs/uploads/",
            scopes=scopes,
            params=params,
            headers={"Content-Length": "0"},
        )
        async with self._transport.ask(ask) as response:
            if response.status_code == httpx.codes.CREATED:
                return None
            return _upload(response)

    async def send(self, upload: Upload, body: Callable[[], httpx.AsyncByteStream], start: int, size: int) -> Upload:
        """Send the bytes from *start* on, of *size* in all, as one chunk."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size - start)}
        if start:  # hosts that know no ranges know no second chunk either
            headers["Content-Range"] = f"{start}-{size - 1}"
        ask = Ask(method="PATCH", url=upload.location, scopes=self._pushing(), headers=headers, body=body)
        async with self._transport.ask(ask) as response:
            return _upload(response)

    async def received(self, upload: Upload) -> tuple[Upload, int]:
        """Ask how many bytes of an interrupted upload have arrived."""
        ask = Ask(method="GET", url=upload.location, scopes=self._pushing())
        async with self._transport.ask(ask) as response:
            found = _RECEIVED.fullmatch(response.headers.get("range", ""))
            return _upload(response), int(found[1]) + 1 if found else 0

    async def finish(self, upload: Upload, digest: Digest, content: bytes = b"") -> None:
        """End an upload, with *content* as its last or only bytes, under the name *digest*."""
        ask = Ask(
            method="PUT",
            url=upload.location,
            scopes=self._pushing(),
            params={"digest": str(digest)},
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(len(content))},
            body=content,
        )
        async with self._transport.ask(ask) as response:
            _check_name(response, digest)

    async def put_manifest(self, name: str, content: bytes, media_type: str) -> None:
        """Publish a manifest or index under a tag or its own digest."""
        ask = Ask(
            method="PUT",
            url=f"{self._repository}/manifests/{name}",
            scopes=self._pushing(),
            headers={"Content-Type": media_type},
            body=content,
        )
        async with self._transport.ask(ask) as response:
            _check_name(response, Digest.of(content))

    def _named(self, said: str) -> Digest:
        try:
            return Digest(said)
        except ImageError as exc:
            raise Refused(f"{self._transport.endpoint}: {exc}") from None

    def _manifest(self, method: str, name: str) -> Ask:
        return self._pull(method, f"manifests/{name}", Accept=ACCEPT)

    def _pull(self, method: str, path: str, **headers: str) -> Ask:
        return Ask(
            method=method,
            url=f"{self._repository}/{path}",
            scopes=[self._scope("pull")],
            headers=headers,
            params=self._params,
        )

    def _push(self, method: str, path: str, **headers: str) -> Ask:
        return Ask(method=method, url=f"{self._repository}/{path}", scopes=self._pushing(), headers=headers)

    def _pushing(self) -> list[str]:
        return [self._scope("pull,push")]

    def _scope(self, actions: str) -> str:
        return f"repository:{self._repository}:{actions}"

    async def _has(self, ask: Ask) -> bool:
        try:
            async with self._transport.ask(ask):
                return True
        except Refused as exc:
            if exc.status == httpx.codes.NOT_FOUND:
                return False
            raise

    async def _document(self, response: httpx.Response) -> bytes:
        with trio.move_on_after(DOCUMENT_SECONDS):
            return await document(response, MAX_MANIFEST, str(self._transport.endpoint))
        raise NotNow(f"{self._transport.endpoint}: the manifest did not arrive in {DOCUMENT_SECONDS} s")


@asynccontextmanager
async def open_blob(transport: Transport, ask: Ask, digest: Digest, size: int, offset: int) -> AsyncIterator[Incoming]:
    """Send *ask*, which asks for a blob from *offset* on; see `Client.blob`."""
    async with transport.ask(ask) as response:
        start = _start(response, offset)
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and start + int(announced) != size:
            raise SizeMismatch(str(digest), size, start + int(announced))
        async with raw(response) as chunks:
            yield Incoming(start, chunks)


async def ping(endpoint: Endpoint, config: DockerConfig) -> None:
    """Ask the host for nothing but whether it lets us in.

    Raises:
        Refused: it does not; ``status`` 401 means that the credentials are wrong.
    """
    async with Transport(endpoint, config) as transport, transport.ask(Ask(method="GET", url="")):
        return


def _start(response: httpx.Response, offset: int) -> int:
    """Return where the body starts, which is not always where it was asked to."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0
    found = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if not found or int(found[1]) != offset:
        raise Refused(f"{response.url.host}: asked for bytes from {offset} on, got {found[0] if found else 'others'}")
    return offset


def _upload(response: httpx.Response) -> Upload:
    location = response.headers.get("location")
    if not location:
        raise Refused(f"{response.url.host}: does not say where to upload to")
    return Upload(str(response.url.join(location)))


def _check_name(response: httpx.Response, digest: Digest) -> None:
    """Hosts need not repeat the digest, but one that repeats another has stored something else."""
    said = response.headers.get("docker-content-digest")
    if said and said != str(digest):
        raise DigestMismatch(str(digest), said)
