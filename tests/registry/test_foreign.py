"""Layers that their owner keeps: fetched from the URLs in their descriptor, and checked like all others."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from tests.registry.conftest import Lab
from tests.registry.hostile import Hostile, Reply, Request
from tests.registry.images import Made, stored
from unionfs.errors import ImageError, RegistryError
from unionfs.oci.model import OCI_MANIFEST, Descriptor, encode
from unionfs.oci.registry import failures
from unionfs.oci.registry.foreign import fetch
from unionfs.oci.registry.observer import Observer

FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_DELAY", 0.005)


@dataclass
class Two:
    """A registry that has all but one layer, and the owner of that one."""

    registry: Hostile
    owner: Hostile
    made: Made
    layer: Descriptor

    @property
    def name(self) -> str:
        return f"{self.registry.host}/app:v1"


@pytest.fixture
def two(lab: Lab, made: Made) -> Iterator[Two]:
    with Hostile(lab.store).running() as registry, Hostile(lab.store).running() as owner:
        kept = made.manifest.layers[1]
        urls = ("http://127.0.0.1:1/nobody", f"http://{owner.host}/v2/of/owner/blobs/{kept.digest}")
        layer = replace(kept, media_type=FOREIGN, urls=urls)
        manifest = replace(made.manifest, layers=(made.manifest.layers[0], layer, made.manifest.layers[2]))
        foreign = Made(stored(lab.store, encode(manifest), OCI_MANIFEST), manifest)
        registry.tags["v1"] = foreign.descriptor.digest
        registry.tricks.append(lambda request: Reply.status_only(404) if request.name == layer.digest else None)
        yield Two(registry, owner, foreign, layer)


async def test_its_owner_is_asked_after_the_registry(two: Two, lab: Lab) -> None:
    await lab.pull(two.name)
    lab.assert_whole(two.made)
    assert [request.name for request in two.owner.requests] == [two.layer.digest]
    assert "authorization" not in two.owner.requests[0].headers
    assert f"{two.layer.urls and two.layer.urls[1]}: good" in str(lab.heard)


async def test_what_breaks_off_goes_on(two: Two, lab: Lab) -> None:
    whole = lab.store.path(two.layer.digest).read_bytes()

    def half(request: Request) -> Reply | None:
        return None if "range" in request.headers else Reply(body=whole[: len(whole) // 2], length=len(whole))

    two.owner.tricks.append(half)
    await lab.pull(two.name)
    lab.assert_whole(two.made)


async def test_other_content_is_not_believed(two: Two, lab: Lab) -> None:
    two.owner.tricks.append(lambda _request: Reply.of(bytes(two.layer.size)))
    with pytest.raises(ImageError, match="sha256"):
        await lab.pull(two.name)
    assert not lab.fresh.has(two.layer.digest)


async def test_an_ordinary_layer_has_no_other_place(two: Two, lab: Lab, made: Made) -> None:
    plain = replace(two.layer, media_type=made.manifest.layers[1].media_type)
    manifest = replace(two.made.manifest, layers=(made.manifest.layers[0], plain, made.manifest.layers[2]))
    two.registry.tags["v1"] = stored(lab.store, encode(manifest), OCI_MANIFEST).digest
    with pytest.raises(RegistryError, match="404"):
        await lab.pull(two.name)
    assert two.owner.requests == []


async def test_a_mirror_that_is_the_last_is_the_last(two: Two, lab: Lab) -> None:
    toml = f'[[registry."registry.example".mirror]]\nurl = "http://{two.registry.host}"\nfallback = false\n'
    with pytest.raises(RegistryError, match="fallback = false"):
        await lab.pull("registry.example/app:v1", toml)
    assert two.owner.requests == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://owner.example/x", "file:///etc/passwd", "//", "x"])
async def test_a_strange_registry_sends_nobody_to_where_there_is_no_tls(two: Two, lab: Lab, url: str) -> None:
    with pytest.raises(RegistryError, match="no TLS"):
        await fetch(replace(two.layer, urls=(url,)), "registry.example", lab.fresh, Observer())
