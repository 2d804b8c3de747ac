"""Foreign layers: those whose licence keeps them where their owner has them, at the URLs in their descriptor.

The registry is asked first, as many hold them all the same. Then come the URLs, in order and without
credentials: over TLS, because a manifest is a stranger's and must not send us to services of our own
network in the clear; plain HTTP only from a registry of this machine to this machine. What arrives is
checked as always.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from unionfs.errors import ImageError, RegistryError
from unionfs.oci.digest import Digest
from unionfs.oci.model import Descriptor
from unionfs.oci.registry.client import Incoming, open_blob
from unionfs.oci.registry.credentials import DockerConfig
from unionfs.oci.registry.download import download
from unionfs.oci.registry.failures import Patience
from unionfs.oci.registry.mirrors import Endpoint, Login, Scheme, is_loopback
from unionfs.oci.registry.observer import Observer
from unionfs.oci.registry.transport import Ask, Transport
from unionfs.oci.store import BlobStore

__all__ = ["fetch"]


class _Place:
    """One URL, as a host that has one blob."""

    def __init__(self, transport: Transport, url: str) -> None:
        self._transport = transport
        self._url = url

    @asynccontextmanager
    async def blob(self, digest: Digest, size: int, offset: int = 0) -> AsyncIterator[Incoming]:
        """See `Client.blob`."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with open_blob(
            self._transport, Ask(method="GET", url=self._url, headers=headers), digest, size, offset
        ) as (incoming):
            yield incoming


async def fetch(blob: Descriptor, registry: str, store: BlobStore, observer: Observer) -> int:
    """Bring *blob* of an image of *registry* into the store; return how many bytes were sent for it.

    Raises:
        RegistryError, ImageError: none of its URLs has it.
    """
    failed: Exception = RegistryError(f"layer {blob.digest.short}: it has no URL")
    urls = blob.urls or ()
    for number, url in enumerate(urls, 1):
        patience = Patience(observer.note, one_of_many=number < len(urls))
        try:
            endpoint = _endpoint(url, registry)
            async with Transport(endpoint, DockerConfig(Path(os.devnull))) as transport:
                received = await download(blob, _Place(transport, url), patience, store, observer)
        except (RegistryError, ImageError) as error:
            observer.note(f"layer {blob.digest.short}: {url}: {error}")
            failed = error
        else:
            observer.note(f"layer {blob.digest.short}: {url}: good")
            return received
    raise failed


def _endpoint(url: str, registry: str) -> Endpoint:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise RegistryError(f"not a URL: {error}") from None
    host = parsed.netloc.decode()
    is_plain = parsed.scheme == "http" and is_loopback(registry) and is_loopback(host)
    if (parsed.scheme != "https" and not is_plain) or not host:
        raise RegistryError(f"{parsed.scheme}://{host} has no TLS, and nobody but the manifest says to go there")
    return Endpoint(host=host, scheme=Scheme(parsed.scheme), login=Login())
