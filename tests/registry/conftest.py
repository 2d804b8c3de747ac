"""A store, and what a pull and a push in a test are made of; nothing of the user's own is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.registry.images import BIG, Heard, Made, layer_of, make_image
from tests.registry.servers import Authority, registry
from unionfs.oci.platforms import Platform
from unionfs.oci.reference import Reference
from unionfs.oci.registry import config
from unionfs.oci.registry.credentials import DockerConfig
from unionfs.oci.registry.pull import Pull, Pulled
from unionfs.oci.registry.push import Push, Pushed
from unionfs.oci.store import BlobStore


@dataclass
class Lab:
    """A store that images are made in and pushed from, an empty one to pull into, and their users."""

    directory: Path
    heard: Heard = field(default_factory=Heard)

    def __post_init__(self) -> None:
        self.store = BlobStore(self.directory / "store")
        self.fresh = BlobStore(self.directory / "fresh")
        self.docker = DockerConfig(self.directory / "docker" / "config.json")

    async def pull(self, name: str, toml: str = "", *, platform: Platform | None = None) -> Pulled:
        """Pull into the empty store, by this registries.toml."""
        return await Pull(
            reference=Reference.parse(name),
            store=self.fresh,
            registries=config.parse(toml),
            docker=self.docker,
            observer=self.heard,
            platform=platform,
        ).run()

    async def push(self, name: str, made: Made, toml: str = "", **more: Any) -> Pushed:
        """Push out of the other store; *more* are fields of `Push`."""
        push = Push(
            reference=Reference.parse(name),
            root=made.descriptor,
            descriptor=made.descriptor,
            store=self.store,
            registries=config.parse(toml),
            docker=self.docker,
            observer=self.heard,
        )
        return await replace(push, **more).run()

    def assert_whole(self, made: Made) -> None:
        """Check that what was pulled is what was made."""
        for blob in [made.descriptor, *made.blobs]:
            assert self.fresh.path(blob.digest).read_bytes() == self.store.path(blob.digest).read_bytes()


@pytest.fixture(autouse=True)
def nothing_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    for name in (
        "DOCKER_CONFIG",
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
        "UNIONFS_REGISTRIES",
        "SSL_CERT_FILE",
        "https_proxy",
        "http_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def made(lab: Lab) -> Made:
    """Return an image of three layers in the lab's store, one of them of more than one chunk."""
    layers = ({"etc/hosts": b"one\n"}, {"big": BIG}, {"c": b"three"})
    return make_image(lab.store, *map(layer_of, layers))


@pytest.fixture(scope="module")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run an open registry, without TLS, for the tests of one module."""
    with registry(tmp_path_factory.mktemp("registry") / "open") as host:
        yield host


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")
