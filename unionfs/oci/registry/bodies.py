"""Reading what a host sends, as much of it as we want and no more."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx

from unionfs.oci.registry.failures import Refused

__all__ = ["document", "raw"]


@asynccontextmanager
async def raw(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """Yield the body's bytes as they are on the wire, and close the response.

    A body that is left half read is an ordinary thing here, but httpx nests generators that nobody
    can close from outside, and trio complains when they reach the garbage collector. So the
    connection is closed under them and they run into that.
    """
    chunks = response.aiter_raw()
    try:
        yield chunks
    finally:
        await response.aclose()
        with suppress(httpx.TransportError, httpx.StreamError):
            async for _ in chunks:
                pass


async def document(response: httpx.Response, limit: int, where: str) -> bytes:
    """Return a body of at most *limit* bytes.

    Raises:
        Refused: it is longer, or without end.
    """
    body = bytearray()
    async with raw(response) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise Refused(f"{where}: its answer is longer than {limit} bytes")
    return bytes(body)
