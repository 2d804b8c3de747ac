"""Pushing to a registry that breaks off, forgets, or says it stored something else."""

from collections.abc import Iterator

import pytest

from tests.registry.conftest import Lab
from tests.registry.hostile import Hostile, Reply, Request, once
from tests.registry.images import Made
from unionfs.errors import ConfigError, RegistryError
from unionfs.oci.digest import Digest, DigestMismatch
from unionfs.oci.registry import failures
from unionfs.oci.registry.credentials import Credential
from unionfs.oci.registry.failures import Refused


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_DELAY", 0.005)


@pytest.fixture
def empty(lab: Lab, made: Made) -> Iterator[Hostile]:
    """Run a registry that holds nothing: a store that is not the lab's."""
    with Hostile(lab.fresh).running() as server:
        yield server


def assert_received(server: Hostile, made: Made, lab: Lab) -> None:
    for blob in made.blobs:
        assert server.received[str(blob.digest)] == lab.store.path(blob.digest).read_bytes()


def of_the_big_one(request: Request) -> bool:
    return request.method == "PATCH"


async def test_small_blobs_go_out_in_one_request_and_big_ones_streamed(empty: Hostile, lab: Lab, made: Made) -> None:
    await lab.push(f"{empty.host}/app:v1", made)
    assert_received(empty, made, lab)
    assert [len(each.body) for each in empty.asked("PATCH", "uploads")] == [made.manifest.layers[1].size]
    assert empty.requests[-1].path == "/v2/app/manifests/v1", "the tag comes last"
    assert empty.received["v1"] == lab.store.get(made.descriptor.digest)


async def test_an_upload_that_breaks_off_goes_on_where_it_stopped(empty: Hostile, lab: Lab, made: Made) -> None:
    def keep_half(request: Request) -> Reply | None:
        if not of_the_big_one(request):
            return None
        empty.uploads[request.name] += request.body[: len(request.body) // 2]
        return Reply.status_only(503)

    empty.tricks.append(once(keep_half))
    await lab.push(f"{empty.host}/app:v1", made)
    assert_received(empty, made, lab)
    first, second = empty.asked("PATCH", "uploads")
    half, size = len(first.body) // 2, len(first.body)
    assert (len(second.body), second.headers["content-range"]) == (size - half, f"{half}-{size - 1}")


async def test_an_upload_the_registry_forgot_starts_anew(empty: Hostile, lab: Lab, made: Made) -> None:
    def forget(request: Request) -> Reply | None:
        return Reply.status_only(503) if of_the_big_one(request) else None

    empty.tricks.append(once(forget))
    empty.tricks.append(lambda request: Reply.status_only(404) if request.method == "GET" else None)
    await lab.push(f"{empty.host}/app:v1", made)
    assert_received(empty, made, lab)


@pytest.mark.parametrize("stored", [True, False])
async def test_an_end_that_was_not_heard_is_asked_for(empty: Hostile, lab: Lab, made: Made, stored: object) -> None:
    def say_nothing(request: Request) -> Reply | None:
        if request.method != "PUT" or request.kind != "uploads":
            return None
        if stored:
            empty.received[request.query["digest"][0]] = bytes(empty.uploads[request.name]) + request.body
        return Reply.status_only(504)

    empty.tricks.append(once(say_nothing))
    await lab.push(f"{empty.host}/app:v1", made)
    assert_received(empty, made, lab)
    assert len(empty.asked("PUT", "uploads")) == len(made.blobs) + (0 if stored else 1)


async def test_a_registry_that_claims_more_than_was_sent_is_not_believed(empty: Hostile, lab: Lab, made: Made) -> None:
    def lie(request: Request) -> Reply | None:
        if of_the_big_one(request):
            return Reply.status_only(503)
        if request.method == "GET":
            return Reply(204, {"Location": request.path, "Range": f"0-{10 << 20}"}, b"", 0)
        return None

    empty.tricks.append(lie)
    with pytest.raises(Refused, match="the registry says it has"):
        await lab.push(f"{empty.host}/app:v1", made)


async def test_a_refused_upload_says_why(empty: Hostile, lab: Lab, made: Made) -> None:
    said = b'{"errors": [{"code": "TOOBIG", "message": "your quota is used up"}]}'
    empty.tricks.append(lambda request: Reply(413, {}, said, len(said)) if request.method == "POST" else None)
    with pytest.raises(Refused, match="413 your quota is used up"):
        await lab.push(f"{empty.host}/app:v1", made)
    assert not empty.asked("PUT", "manifests")


async def test_a_registry_that_stored_something_else_is_not_believed(empty: Hostile, lab: Lab, made: Made) -> None:
    other = str(Digest.of(b"other"))

    def lie(request: Request) -> Reply | None:
        return Reply.status_only(201, Docker_Content_Digest=other) if request.method == "PUT" else None

    empty.tricks.append(lie)
    with pytest.raises(DigestMismatch, match=other):
        await lab.push(f"{empty.host}/app:v1", made)


@pytest.mark.parametrize("layer", [0, 1], ids=["small", "big"])
async def test_a_damaged_store_is_noticed_before_its_content_gets_the_name(
    empty: Hostile, lab: Lab, made: Made, layer: int
) -> None:
    path = lab.store.path(made.manifest.layers[layer].digest)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(DigestMismatch):
        await lab.push(f"{empty.host}/app:v1", made)
    assert str(made.manifest.layers[layer].digest) not in empty.received


async def test_an_upload_sent_to_another_host_goes_without_the_password(empty: Hostile, lab: Lab, made: Made) -> None:
    def guard(request: Request) -> Reply | None:
        if "authorization" not in request.headers:
            return Reply.status_only(401, WWW_Authenticate='Basic realm="x"')
        if request.method == "POST":
            elsewhere.uploads[location := f"session{len(elsewhere.uploads)}"] = bytearray()
            return Reply.status_only(202, Location=f"http://{elsewhere.host}/v2/x/blobs/uploads/{location}?state=1")
        return None

    lab.docker.store(empty.host, Credential("me", "secret"))
    empty.tricks.append(guard)
    with Hostile(lab.fresh).running() as elsewhere:
        await lab.push(f"{empty.host}/app:v1", made)
        assert_received(elsewhere, made, lab)
        assert all("authorization" not in each.headers for each in elsewhere.requests)
        assert elsewhere.requests[0].query["state"] == ["1"], "the location is used as it was given"


async def test_a_source_we_may_not_read_is_no_obstacle(empty: Hostile, lab: Lab, made: Made) -> None:
    empty.tricks.append(lambda request: Reply.status_only(403) if "mount" in request.query else None)
    await lab.push(f"{empty.host}/app:v1", made, elsewhere=lambda digest: ["private"])
    assert_received(empty, made, lab)


async def test_a_push_by_digest_alone_is_refused(lab: Lab, made: Made) -> None:
    with pytest.raises(ConfigError, match="needs a tag"):
        await lab.push(f"127.0.0.1:1/app@{made.descriptor.digest}", made)


async def test_a_registry_that_is_not_there_is_named(lab: Lab, made: Made) -> None:
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1"):
        await lab.push("127.0.0.1:1/app:v1", made)
