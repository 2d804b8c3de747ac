"""Against a real registry server: what goes out comes back, the same bytes under the same names."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.registry.conftest import Lab
from tests.registry.images import Made, index_of, layer_of, make_image
from tests.registry.servers import HTPASSWD, PASSWORD, USER, Authority, TokenServer, registry
from unionfs.errors import ImageError, RegistryError
from unionfs.oci.platforms import parse_platform
from unionfs.oci.registry.credentials import Credential
from unionfs.oci.registry.failures import Refused
from unionfs.oci.registry.login import log_in
from unionfs.oci.registry.mirrors import Registries


async def test_a_push_comes_back_by_pull(docker_registry: str, lab: Lab, made: Made) -> None:
    pushed = await lab.push(f"{docker_registry}/app:v1", made)
    assert pushed.sent == sum(blob.size for blob in made.blobs)
    pulled = await lab.pull(f"{docker_registry}/app:v1")
    assert pulled.root == pulled.descriptor == pushed.descriptor == made.descriptor
    assert pulled.received == pushed.sent
    lab.assert_whole(made)


async def test_what_is_there_is_neither_sent_nor_fetched_again(docker_registry: str, lab: Lab, made: Made) -> None:
    await lab.push(f"{docker_registry}/again:v1", made)
    assert (await lab.push(f"{docker_registry}/again:v2", made)).sent == 0
    await lab.pull(f"{docker_registry}/again:v1")
    assert (await lab.pull(f"{docker_registry}/again:v2")).received == 0


async def test_a_partial_blob_is_resumed(docker_registry: str, lab: Lab, made: Made) -> None:
    await lab.push(f"{docker_registry}/resumed:v1", made)
    big = made.manifest.layers[1]
    with lab.fresh.writer(big.digest, big.size) as writer:
        writer.write(lab.store.path(big.digest).read_bytes()[: big.size // 2])
    pulled = await lab.pull(f"{docker_registry}/resumed:v1")
    assert pulled.received == sum(blob.size for blob in made.blobs) - big.size // 2
    lab.assert_whole(made)


async def test_a_digest_is_a_name(docker_registry: str, lab: Lab, made: Made) -> None:
    await lab.push(f"{docker_registry}/pinned:v1", made)
    pulled = await lab.pull(f"{docker_registry}/pinned@{made.descriptor.digest}")
    assert pulled.descriptor == made.descriptor


async def test_an_index_is_chosen_from_by_platform(docker_registry: str, lab: Lab) -> None:
    amd64, arm64 = parse_platform("linux/amd64"), parse_platform("linux/arm64")
    images = {
        each: make_image(lab.store, layer_of({"arch": str(each).encode()}), platform=each) for each in (amd64, arm64)
    }
    root = index_of(lab.store, images)
    await lab.push(f"{docker_registry}/multi:v1", images[amd64], root=root)
    for platform, made in images.items():
        pulled = await lab.pull(f"{docker_registry}/multi:v1", platform=platform)
        assert (pulled.root.digest, pulled.descriptor.digest) == (root.digest, made.descriptor.digest)
    with pytest.raises(ImageError, match="linux/s390x"):
        await lab.pull(f"{docker_registry}/multi:v1", platform=parse_platform("s390x"))


async def test_an_index_that_is_not_all_here_stays_here(docker_registry: str, lab: Lab) -> None:
    amd64, arm64 = parse_platform("linux/amd64"), parse_platform("linux/arm64")
    images = {
        each: make_image(lab.store, layer_of({"arch": str(each).encode()}), platform=each) for each in (amd64, arm64)
    }
    root = index_of(lab.store, images)
    lab.store.delete(images[arm64].manifest.layers[0].digest)
    pushed = await lab.push(f"{docker_registry}/partly:v1", images[amd64], root=root)
    assert pushed.descriptor == images[amd64].descriptor
    assert "1 of the 2 images of its index are not here" in str(lab.heard)
    assert (await lab.pull(f"{docker_registry}/partly:v1", platform=amd64)).root == images[amd64].descriptor


async def test_a_layer_is_taken_over_from_another_repository(docker_registry: str, lab: Lab, made: Made) -> None:
    await lab.push(f"{docker_registry}/origin:v1", made)
    pushed = await lab.push(f"{docker_registry}/fork:v1", made, elsewhere=lambda digest: ["origin"])
    assert pushed.sent == 0
    assert {lab.heard.ends[blob.digest] for blob in made.blobs} == {"taken over from origin"}


async def test_an_absent_image_is_named_in_the_error(docker_registry: str, lab: Lab) -> None:
    with pytest.raises(Refused, match="404") as refused:
        await lab.pull(f"{docker_registry}/nothing:here")
    assert refused.value.status == 404


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[str]:
    """Run a registry that wants a name and a password."""
    (tmp_path / "htpasswd").write_text(HTPASSWD, encoding="ascii")
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}
    with registry(tmp_path / "closed", auth=auth) as host:
        yield host


async def test_basic_authentication(closed: str, lab: Lab, made: Made) -> None:
    with pytest.raises(Refused, match=f"unionfs login {closed}"):
        await lab.push(f"{closed}/app:v1", made)
    lab.docker.store(closed, Credential(USER, "wrong"))
    with pytest.raises(Refused) as refused:
        await lab.push(f"{closed}/app:v1", made)
    assert refused.value.status == 401
    lab.docker.store(closed, Credential(USER, PASSWORD))
    await lab.push(f"{closed}/app:v1", made)
    await lab.pull(f"{closed}/app:v1")
    lab.assert_whole(made)


@pytest.fixture
def tokens(tmp_path: Path, authority: Authority) -> Iterator[TokenServer]:
    with TokenServer(tmp_path / "tokens", authority).running() as server:
        yield server


async def test_token_authentication(tmp_path: Path, tokens: TokenServer, lab: Lab, made: Made) -> None:
    with registry(tmp_path / "registry", auth=tokens.settings()) as host:
        with pytest.raises(RegistryError, match="unionfs login"):
            await lab.push(f"{host}/team/app:v1", made)
        lab.docker.store(host, Credential(USER, PASSWORD))
        await lab.push(f"{host}/team/app:v1", made)
        pushes = len(tokens.requests)
        assert tokens.requests[-1]["scope"] == ["repository:team/app:pull,push"]
        del lab.docker.content["auths"]
        await lab.pull(f"{host}/team/app:v1")
        assert len(tokens.requests) == pushes + 1, "one token serves the manifest and every layer"


async def test_a_login_is_tried_at_the_token_server(tmp_path: Path, tokens: TokenServer, lab: Lab) -> None:
    with registry(tmp_path / "registry", auth=tokens.settings()) as host:
        with pytest.raises(Refused) as refused:
            await log_in(host, Credential(USER, "wrong"), Registries(), lab.docker, lab.heard)
        assert refused.value.status == 401
        await log_in(host, Credential(USER, PASSWORD), Registries(), lab.docker, lab.heard)
    assert lab.docker.get(host) == Credential(USER, PASSWORD)


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> Callable[[str], AbstractContextManager[str]]:
    """Return a function that runs a registry whose certificate is for this subject."""

    def run(alternative: str) -> AbstractContextManager[str]:
        certificate, key = authority.issue("server", alternative=alternative)
        return registry(tmp_path / "tls", http={"tls": {"certificate": str(certificate), "key": str(key)}})

    return run


async def test_a_certificate_of_a_configured_authority_is_believed(
    tls: Callable[[str], AbstractContextManager[str]], authority: Authority, lab: Lab, made: Made
) -> None:
    with tls("IP:127.0.0.1") as host:
        toml = f'[registry."{host}"]\nca = "{authority.certificate}"\n'
        await lab.push(f"{host}/app:v1", made, toml)
        await lab.pull(f"{host}/app:v1", toml)
    lab.assert_whole(made)


@pytest.mark.parametrize(("alternative", "known"), [("IP:127.0.0.1", False), ("DNS:elsewhere.example", True)])
async def test_a_certificate_that_does_not_verify_is_an_error_on_loopback_too(
    tls: Callable[[str], AbstractContextManager[str]], authority: Authority, lab: Lab, alternative: str, known: object
) -> None:
    with tls(alternative) as host:
        toml = f'[registry."{host}"]\nca = "{authority.certificate}"\n' if known else ""
        with pytest.raises(Refused, match="not trusted"):
            await lab.pull(f"{host}/app:v1", toml)
