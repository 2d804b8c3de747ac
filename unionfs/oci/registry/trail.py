"""Walking the attempts for one reference: who is asked, why that was not enough, who is next.

`mirrors` decides the order beforehand; here it meets what the hosts really do. A host that could
not be reached, or that served content with the wrong digest or length, is out for the rest of the
pull: the next layer does not wait for it again, and does not believe it again.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, Self, TypeVar

from unionfs.errors import ConfigError, ImageError, RegistryError
from unionfs.oci.registry.client import Client
from unionfs.oci.registry.credentials import DockerConfig
from unionfs.oci.registry.failures import NotNow, Patience
from unionfs.oci.registry.mirrors import Attempt, Endpoint, Right
from unionfs.oci.registry.observer import Observer
from unionfs.oci.registry.transport import Transport

__all__ = ["Trail"]

T = TypeVar("T")

_FAILURES: Final = (RegistryError, ImageError, ConfigError)
"""What a host, its content or its configured credentials can do wrong. A full disk is not of them."""


class Trail:
    """The attempts for one reference, with a connection pool for each host. Use as ``async with``."""

    def __init__(self, attempts: tuple[Attempt, ...], config: DockerConfig, observer: Observer) -> None:
        self._attempts = attempts
        self._config = config
        self._observer = observer
        self._transports: dict[Attempt, Transport] = {}
        self._out: dict[Endpoint, str] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    @property
    def may_leave(self) -> bool:
        """Whether hosts may be asked that are not among the attempts: no mirror says that it is the last."""
        return all(attempt.fallback for attempt in self._attempts[:-1])

    async def first(self, right: Right, what: str, ask: Callable[[Client, Patience], Awaitable[T]]) -> T:
        """Return the first good answer to *ask*; *what* names it in notes and errors.

        Raises:
            RegistryError, ImageError, ConfigError: no host that may be asked gave one.
        """
        failed: list[str] = []
        for attempt in self._attempts:
            if right not in attempt.rights:
                self._observer.note(f"{what}: {attempt}: passed over: it has no right to {right}")
                continue
            try:
                self._check_is_in(attempt)
                answer = await ask(await self._client(attempt), self._patience(attempt))
            except _FAILURES as exc:
                failed.append(str(exc))
                self._consider(attempt, exc)
                self._go_on_or_raise(what, attempt, exc, failed)
            else:
                self._observer.note(f"{what}: {attempt}: good")
                return answer
        raise RegistryError(f"{what}: nobody may be asked: " + "; ".join(failed))

    def _check_is_in(self, attempt: Attempt) -> None:
        if attempt.endpoint in self._out:
            raise RegistryError(f"{attempt.endpoint}: passed over: {self._out[attempt.endpoint]}")

    def _go_on_or_raise(self, what: str, attempt: Attempt, exc: Exception, failed: list[str]) -> None:
        if attempt.fallback:
            self._observer.note(f"{what}: {attempt}: {exc}; going on, because fallback = true")
            return
        if attempt is not self._attempts[-1]:
            self._observer.note(f"{what}: {attempt}: {exc}; stopping, because fallback = false")
            raise RegistryError(f"{what}: {'; '.join(failed)}; nobody else is asked: fallback = false") from exc
        self._observer.note(f"{what}: {attempt}: {exc}; there is nobody else to ask")
        if len(self._attempts) == 1 and isinstance(exc, NotNow) and not exc.connected:
            raise RegistryError(f"{exc}; try: a mirror of it, in registries.toml") from exc
        if len(failed) == 1:
            raise exc
        raise RegistryError(f"{what}: " + "; ".join(failed)) from exc

    def _consider(self, attempt: Attempt, exc: Exception) -> None:
        if isinstance(exc, NotNow):
            self._out[attempt.endpoint] = "it did not answer before"
        elif isinstance(exc, ImageError):
            self._out[attempt.endpoint] = "it served wrong content before"

    async def _client(self, attempt: Attempt) -> Client:
        transport = self._transports.get(attempt)
        if transport is None:
            transport = Transport(attempt.endpoint, self._config, attempt.repository)
            self._transports[attempt] = transport
            await self._stack.enter_async_context(transport)
        return Client(transport, attempt)

    def _patience(self, attempt: Attempt) -> Patience:
        return Patience(self._observer.note, one_of_many=attempt.fallback)
