"""Answering challenges: anonymous, basic, bearer.

    401 + WWW-Authenticate ── Basic ──> the credentials, on every request
                           └─ Bearer ─> a token from the realm, for the repository's scope

One `Authorizer` belongs to one endpoint, so no header of one host is ever at hand when another is
asked. Credentials are read when the first challenge arrives: an anonymous pull runs no helper.
Tokens live in memory only, one for each scope, until shortly before they expire; parallel layers
wait for one token instead of asking for one each.

A realm is a URL the registry chose. The credentials of that registry go to it, as the protocol
wants, but not in the clear: a realm without TLS is refused, unless the registry itself is spoken
to without TLS, or the realm is on this machine and so is the registry.

Source: docs.docker.com "Token authentication specification" and "OAuth2 token authentication".
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import httpx
import msgspec
import trio

from unionfs.errors import ConfigError
from unionfs.oci.registry.bodies import document
from unionfs.oci.registry.challenge import Challenge, choose, parse
from unionfs.oci.registry.credentials import Credential, DockerConfig
from unionfs.oci.registry.failures import NotNow, Refused, is_transient, printable, retry_after
from unionfs.oci.registry.mirrors import Endpoint, Scheme, is_loopback

__all__ = ["Authorizer", "credential_for", "plain_is_allowed"]

TOKEN_SECONDS = 60
"""How long a token lives that does not say so. Source: the token specification."""

MARGIN_SECONDS = 10
"""A token this close to its end may expire on the way."""

MAX_TOKEN_ANSWER = 1 << 20


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: Annotated[float, msgspec.Meta(ge=0)] = TOKEN_SECONDS


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    until: float


def credential_for(endpoint: Endpoint, config: DockerConfig, repository: str = "") -> Credential | None:
    """The credentials of one host: those written beside it, else docker's and podman's. May run a helper."""
    login = endpoint.login
    if login is None:
        return config.get(endpoint.host, repository)
    if not login.username:
        return None
    if login.password_file is None:
        return Credential(login.username, login.password)
    try:
        secret = login.password_file.read_text(encoding="utf-8")
    except OSError as exc:
        why = f"password_file = {login.password_file} cannot be read: {exc.strerror}"
        raise ConfigError(f"{endpoint.host}: {why}; correct it in registries.toml") from None
    return Credential(login.username, secret.removesuffix("\n"))


def plain_is_allowed(url: httpx.URL, endpoint: Endpoint) -> bool:
    """Return whether something on behalf of *endpoint* may go to *url* without TLS.

    Yes where the configuration says so of that very host, and from this machine to itself; a
    remote host cannot send us to a service of our own loopback.
    """
    if is_loopback(endpoint.host):
        return is_loopback(url.host)
    return endpoint.scheme is Scheme.HTTP and url.host == httpx.URL(endpoint.url).host


class Authorizer:
    """What one endpoint wants to see in ``Authorization``, learnt from its challenges."""

    def __init__(
        self, endpoint: Endpoint, http: httpx.AsyncClient, credential: Callable[[], Credential | None]
    ) -> None:
        self._endpoint = endpoint
        self._http = http
        self._credential = credential
        self._asked = False
        self._held: Credential | None = None
        self._basic: str | None = None
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._lock = trio.Lock()  # guards all of the above while a helper or a realm is asked

    def header(self, scopes: Sequence[str]) -> str | None:
        """The header to send, as far as is known without asking anybody."""
        token = self._tokens.get(tuple(scopes))
        if token and time.monotonic() < token.until:
            return token.header
        return self._basic

    async def answer(self, response: httpx.Response, scopes: Sequence[str], sent: str | None) -> bool:
        """Learn from a 401; True if the request is worth sending again.

        *sent* is the header that was refused: when another task has learnt a new one since, that
        one is used and nobody is asked.
        """
        challenge = choose(parse(response.headers.get_list("www-authenticate")))
        if challenge is None:
            return False
        async with self._lock:
            if self.header(scopes) != sent:
                return True
            self._tokens.pop(tuple(scopes), None)
            credential = await self._read_credential()
            if challenge.scheme == "basic":
                if credential is None or not credential.username or self._basic == credential.basic():
                    return False
                self._basic = credential.basic()
                return True
            self._tokens[tuple(scopes)] = await self._token(challenge, scopes, credential)
            return True

    async def _read_credential(self) -> Credential | None:
        if not self._asked:
            self._held = await trio.to_thread.run_sync(self._credential, abandon_on_cancel=True)
            self._asked = True
        return self._held

    async def _token(self, challenge: Challenge, scopes: Sequence[str], credential: Credential | None) -> _Token:
        realm = self._realm(challenge)
        wanted = _scopes(challenge.parameters.get("scope"), scopes)
        service = challenge.parameters.get("service", "")
        request = self._token_request(realm, service, wanted, credential)
        answer = await self._ask_realm(request)
        text = answer.token or answer.access_token
        if not text or not text.isascii() or not text.isprintable():
            raise Refused(f"{realm}: its answer holds no token")
        return _Token(f"Bearer {text}", time.monotonic() + max(0, answer.expires_in - MARGIN_SECONDS))

    def _realm(self, challenge: Challenge) -> httpx.URL:
        text = challenge.parameters["realm"]
        try:
            realm = httpx.URL(text)
        except httpx.InvalidURL as exc:
            raise Refused(f"{self._endpoint}: its token server is no URL: {exc}") from None
        plain = realm.scheme == "http" and plain_is_allowed(realm, self._endpoint)
        if realm.scheme != "https" and not plain:
            raise Refused(f"{self._endpoint}: its token server has no TLS: {printable(text)}")
        return realm

    def _token_request(
        self, realm: httpx.URL, service: str, scopes: list[str], credential: Credential | None
    ) -> httpx.Request:
        if credential and credential.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credential.identity_token,
                "client_id": "unionfs",
                "service": service,
                "scope": " ".join(scopes),
            }
            return self._http.build_request("POST", realm, data=form)
        query: list[tuple[str, str]] = [("scope", scope) for scope in scopes]
        if service:
            query.append(("service", service))
        headers = {}
        if credential:
            query.append(("account", credential.username))
            headers["Authorization"] = credential.basic()
        return self._http.build_request(
            "GET", realm.copy_merge_params(httpx.QueryParams([*realm.params.multi_items(), *query])), headers=headers
        )

    async def _ask_realm(self, request: httpx.Request) -> _TokenAnswer:
        where = f"{request.url.scheme}://{request.url.netloc.decode()}{request.url.path}"
        try:
            response = await self._http.send(request, stream=True)
            body = await document(response, MAX_TOKEN_ANSWER, where)
        except httpx.TransportError as exc:
            raise NotNow(f"{where}: {str(exc) or type(exc).__name__}") from None
        if is_transient(response.status_code):
            wait = retry_after(response.headers.get("retry-after"))
            raise NotNow(f"{where}: status {response.status_code}", wait)
        if response.status_code != httpx.codes.OK:
            raise Refused(
                f"{where}: status {response.status_code}; try: unionfs login {self._endpoint.host}",
                response.status_code,
            )
        try:
            return msgspec.json.decode(body, type=_TokenAnswer)
        except msgspec.MsgspecError as exc:
            raise Refused(f"{where}: not a token server's answer: {exc}") from None


def _scopes(named: str | None, ours: Sequence[str]) -> list[str]:
    """Ask for what we are about to do, where the challenge says it is done.

    A challenge names only what its one request needed (a HEAD: pull), but it knows the repository's
    name at the token server, which may differ from the one in the URL.

    >>> _scopes("repository:proxy/app:pull", ["repository:app:pull,push", "repository:other:pull"])
    ['repository:proxy/app:pull,push', 'repository:other:pull']
    """
    if named is None or not ours:
        return [named] if named else list(ours)
    actions = ours[0].rpartition(":")[2]
    return [f"{named.rpartition(':')[0]}:{actions}", *ours[1:]]
