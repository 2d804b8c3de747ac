"""Which tags a repository has, as ``pull --all-tags`` asks."""

from unionfs.oci.reference import Reference
from unionfs.oci.registry.client import Client
from unionfs.oci.registry.credentials import DockerConfig
from unionfs.oci.registry.failures import Patience
from unionfs.oci.registry.mirrors import Registries, Right
from unionfs.oci.registry.observer import Observer
from unionfs.oci.registry.trail import Trail

__all__ = ["all_tags"]


async def all_tags(
    reference: Reference, registries: Registries, docker: DockerConfig, observer: Observer
) -> list[Reference]:
    """Return a reference for each tag of the repository, from the first host that may say so.

    Raises:
        RegistryError: no host that may be asked says it.
        ImageError: a tag is none.
    """

    async def ask(client: Client, patience: Patience) -> list[str]:
        return await patience.through(client.tags)

    async with Trail(registries.attempts(reference), docker, observer) as trail:
        tags = await trail.first(Right.RESOLVE, f"tags of {reference.familiar_name}", ask)
    return [Reference(reference.registry, reference.repository, tag) for tag in tags]
