"""Logging in: credentials are tried first, and kept only if the registry takes them."""

import re
from dataclasses import replace

from unionfs.errors import ConfigError
from unionfs.oci.reference import DEFAULT_REGISTRY, canonical, is_registry
from unionfs.oci.registry.client import ping
from unionfs.oci.registry.credentials import Credential, DockerConfig
from unionfs.oci.registry.failures import Patience
from unionfs.oci.registry.mirrors import Login, Registries
from unionfs.oci.registry.observer import Observer

__all__ = ["log_in", "log_out", "registry_named"]


def registry_named(text: str | None) -> str:
    """Return the registry a user means; URLs are taken as well, and nothing is docker's.

    >>> registry_named("https://index.docker.io/v1/"), registry_named("localhost:5000")
    ('docker.io', 'localhost:5000')
    """
    host = re.sub(r"^https?://", "", text or DEFAULT_REGISTRY).partition("/")[0]
    if not is_registry(host):
        raise ConfigError(f"not a registry: {text!r}; write HOST or HOST:PORT")
    return canonical(host)


async def log_in(
    registry: str, credential: Credential, registries: Registries, docker: DockerConfig, observer: Observer
) -> str:
    """Try *credential* and keep it; return where it is kept, in words for the user.

    Raises:
        RegistryError: the registry does not take it, or does not answer.
    """
    login = Login(username=credential.username, password=credential.password)
    endpoint = replace(registries.endpoint(registry), login=login)
    await Patience(observer.note).through(lambda: ping(endpoint, docker))
    return docker.store(registry, credential)


def log_out(registry: str, docker: DockerConfig) -> bool:
    """Forget the credentials for *registry*; False if there were none."""
    return docker.erase(registry)
