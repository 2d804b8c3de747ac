"""One HTTP exchange with one host: TLS, challenges, redirects; bodies are left to the caller.

    ask ─> send ─┬─ 401 ──────> answer the challenge, once, and send again
                 ├─ 3xx ──────> follow, at most MAX_HOPS; another host never sees Authorization
                 ├─ 429, 5xx ─> NotNow
                 ├─ 4xx ──────> Refused, with what the host said of it
                 └─ 2xx ──────> the response, its body unread

TLS certificates are verified, always; there is no switch. Trust is the system's store (or
SSL_CERT_FILE), plus the ``ca`` that the configuration names for this host. Plain HTTP is spoken
where `mirrors.Endpoint` says so. A loopback host of which nothing is said is probed: if it does
not speak TLS *at all* it is spoken to in the clear, because that is what every local test registry
is; a certificate that does not verify is an error there too.
"""

import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Self

import httpx
import msgspec
import trio

from unionfs.errors import ConfigError
from unionfs.oci.registry.auth import Authorizer, credential_for, plain_is_allowed
from unionfs.oci.registry.bodies import document
from unionfs.oci.registry.credentials import DockerConfig
from unionfs.oci.registry.failures import NotNow, Refused, is_transient, printable, retry_after
from unionfs.oci.registry.mirrors import Endpoint, Scheme

__all__ = ["Ask", "Transport"]

MAX_HOPS: Final = 5

TIMEOUTS: Final = httpx.Timeout(60, connect=10)
"""Seconds without a byte; connecting is given up sooner, because there may be a mirror to go to."""

UPLOAD_TIMEOUTS: Final = httpx.Timeout(60, connect=10, read=600)
"""A registry answers the end of an upload when it has put the blob together, which may take minutes."""

_FOLLOWED: Final = {
    "GET": {301, 302, 303, 307, 308},
    "HEAD": {301, 302, 303, 307, 308},
    "PUT": {307, 308},
    "POST": {307, 308},
    "PATCH": {307, 308},
}
"""Redirects that keep the method, by method: an upload is never turned into a GET."""

PROBE_SECONDS: Final = 5
_MAX_ERROR_BODY: Final = 16 << 10
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


class _ErrorEntry(msgspec.Struct):
    code: str = ""
    message: str | None = None


class _ErrorBody(msgspec.Struct):
    errors: list[_ErrorEntry] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request, in a form that can be sent more than once."""

    method: str
    url: str
    """A path below ``/v2/``, or a whole URL that the host gave us."""
    scopes: Sequence[str] = ()
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    body: Callable[[], httpx.AsyncByteStream] | bytes = b""
    """Bytes; or a stream, made anew for each time it is sent, whose length is in the headers."""


class Transport:
    """Speaks HTTP to one endpoint. Use as ``async with``."""

    def __init__(self, endpoint: Endpoint, config: DockerConfig, repository: str = "") -> None:
        """*repository* is the one that credentials are sought for, where there are some for a part of the host."""
        self.endpoint = endpoint
        self._http = httpx.AsyncClient(
            verify=_trust(endpoint),
            timeout=TIMEOUTS,
            headers={"User-Agent": "unionfs", "Accept-Encoding": "identity"},
            mounts={f"all://{host}": None for host in _LOOPBACK},  # no proxy stands in between
            limits=httpx.Limits(max_connections=32),
        )
        self._auth = Authorizer(endpoint, self._http, lambda: credential_for(endpoint, config, repository))
        self._base: httpx.URL | None = None
        self._probing = trio.Lock()  # guards _base

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def ask(self, ask: Ask) -> AsyncIterator[httpx.Response]:
        """Send, and yield a 2xx response whose body is unread.

        Raises:
            NotNow: nobody answered, or the answer was "later".
            Refused: the answer was no; ``status`` is the HTTP status.
        """
        response = await self._challenged(ask, await self._url(ask))
        try:
            if not response.is_success:
                raise await self._failure(ask, response)
            with _transport_errors(str(self.endpoint)):
                yield response
        finally:
            await response.aclose()

    async def _url(self, ask: Ask) -> httpx.URL:
        """Return where to send it first; a redirect is followed to the letter, it may be signed."""
        async with self._probing:
            if self._base is None:
                self._base = await self._find_base()
        whole = httpx.URL(ask.url if "://" in ask.url else f"{self._base}{ask.url}")
        return whole.copy_merge_params(ask.params) if ask.params else whole

    async def _find_base(self) -> httpx.URL:
        url = httpx.URL(f"{self.endpoint.url}/v2/")
        if self.endpoint.scheme is Scheme.PROBE and not await _speaks_tls(url):
            url = url.copy_with(scheme="http")
        return url

    async def _challenged(self, ask: Ask, url: httpx.URL) -> httpx.Response:
        """Send; a 401 is answered and the request repeated, twice: a token may have just expired."""
        for _ in range(2):
            sent = self._auth.header(ask.scopes)
            response, home = await self._redirected(ask, url, sent)
            if response.status_code != httpx.codes.UNAUTHORIZED or not home:
                return response
            try:
                again = await self._auth.answer(response, ask.scopes, sent)
            except BaseException:
                await response.aclose()
                raise
            if not again:
                return response
            await response.aclose()
        response, _ = await self._redirected(ask, url, self._auth.header(ask.scopes))
        return response

    async def _redirected(self, ask: Ask, url: httpx.URL, authorization: str | None) -> tuple[httpx.Response, bool]:
        """Send and follow redirects; also say whether the last answer came from the endpoint."""
        for _ in range(MAX_HOPS + 1):
            home = self._is_home(url)
            self._check_plain(url)
            response = await self._send(ask, url, authorization if home else None)
            location = response.headers.get("location")
            if response.status_code not in _FOLLOWED[ask.method] or not location:
                return response, home
            await response.aclose()
            try:
                url = response.url.join(location)
            except httpx.InvalidURL as exc:
                raise Refused(f"{self.endpoint}: redirects to no URL: {exc}") from None
        raise Refused(f"{self.endpoint}: more than {MAX_HOPS} redirects")

    async def _send(self, ask: Ask, url: httpx.URL, authorization: str | None) -> httpx.Response:
        headers = ask.headers | ({"Authorization": authorization} if authorization else {})
        content = ask.body if isinstance(ask.body, bytes) else b""
        with _transport_errors(str(self.endpoint)):
            request = self._http.build_request(
                ask.method,
                url,
                headers=headers,
                content=content or None,
                timeout=UPLOAD_TIMEOUTS if ask.method in {"PUT", "PATCH"} else TIMEOUTS,
            )
            if not isinstance(ask.body, bytes):
                request.stream = ask.body()
            return await self._http.send(request, stream=True)

    def _is_home(self, url: httpx.URL) -> bool:
        base = self._base
        return base is not None and _origin(url) == _origin(base)

    def _check_plain(self, url: httpx.URL) -> None:
        if url.scheme == "https":
            return
        if url.scheme != "http" or not plain_is_allowed(url, self.endpoint):
            raise Refused(f"{self.endpoint}: redirects to {url.scheme}://{url.netloc.decode()}, without TLS")

    async def _failure(self, ask: Ask, response: httpx.Response) -> Exception:
        status = response.status_code
        what = f"{self.endpoint}: {ask.method}: {status} {await _reason(response)}"
        if is_transient(status):
            return NotNow(what, retry_after(response.headers.get("retry-after")))
        if status in {401, 403}:
            what += f"; try: unionfs login {self.endpoint.host}"
        return Refused(what, status)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _trust(endpoint: Endpoint) -> ssl.SSLContext:
    files = {"ca": endpoint.ca, "client_cert": endpoint.client_cert, "client_key": endpoint.client_key}
    for key, path in files.items():
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigError(f"{endpoint.host}: {key} = {path} cannot be read; correct it in registries.toml")
    try:
        return _context(endpoint.ca, endpoint.client_cert, endpoint.client_key)
    except (OSError, ssl.SSLError) as exc:
        named = ", ".join(f"{key} = {path}" for key, path in files.items() if path is not None)
        raise ConfigError(f"{endpoint.host}: {named}: {exc}; these must be PEM files that fit together") from None


@cache
def _context(ca: Path | None, client_cert: Path | None, client_key: Path | None) -> ssl.SSLContext:
    """Read the authorities, which takes as long as a small blob; mirrors mostly have the same ones."""
    context = ssl.create_default_context()
    if ca:
        context.load_verify_locations(ca)
    if client_cert and client_key:
        context.load_cert_chain(client_cert, client_key)
    return context


async def _speaks_tls(url: httpx.URL) -> bool:
    """Return whether a TLS handshake gets an answer; a certificate that is not trusted is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent through it
    try:
        with trio.fail_after(PROBE_SECONDS):
            stream = await trio.open_ssl_over_tcp_stream(
                url.host, url.port or 443, ssl_context=context, https_compatible=True
            )
            async with stream:
                await stream.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError):
        return False
    except OSError as exc:
        raise NotNow(f"{url.netloc.decode()}: nobody answers: {_cause(exc)}", connected=False) from None
    return True


@contextmanager
def _transport_errors(where: str) -> Iterator[None]:
    """Turn what httpx raises into our two kinds of failure."""
    try:
        yield
    except httpx.TransportError as exc:
        cause = next((each for each in _causes(exc) if isinstance(each, ssl.SSLCertVerificationError)), None)
        if cause is not None:
            raise Refused(f"{where}: its certificate is not trusted: {cause.verify_message}") from None
        connected = not isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout)
        words = _words(exc) if connected else f"nobody answers: {_words(exc)}"
        raise NotNow(f"{where}: {words}", connected=connected) from None
    except httpx.InvalidURL as exc:
        raise Refused(f"{where}: not a URL: {exc}") from None


def _words(exc: httpx.TransportError) -> str:
    if isinstance(exc, httpx.TimeoutException):
        return "no connection in time" if isinstance(exc, httpx.ConnectTimeout) else "no answer in time"
    return printable(_cause(exc)) or type(exc).__name__


def _cause(exc: BaseException) -> str:
    """Return what the system said, which the libraries between it and us put into words of their own."""
    for each in _causes(exc):
        inner = each.exceptions if isinstance(each, BaseExceptionGroup) else (each,)
        for error in inner:
            if isinstance(error, OSError) and error.errno:
                return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(exc)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


async def _reason(response: httpx.Response) -> str:
    """Say why, in the host's words if it has some."""
    try:
        body = await document(response, _MAX_ERROR_BODY, "")
        errors = msgspec.json.decode(body, type=_ErrorBody).errors
    except (httpx.TransportError, Refused, msgspec.MsgspecError, RecursionError):
        errors = []
    said = "; ".join(each.message or each.code for each in errors)
    return printable(said or response.reason_phrase)
