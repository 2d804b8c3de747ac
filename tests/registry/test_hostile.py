"""A registry that lies, breaks off, floods or leads astray: what is wrong is never kept, and said."""

import itertools
import threading
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from tests.registry.conftest import Lab
from tests.registry.hostile import Hostile, Reply, Request, Trick, once
from tests.registry.images import Made, index_of, layer_of, make_image
from unionfs.errors import ImageError, RegistryError, UnionFSError
from unionfs.oci.digest import CHUNK, Digest, DigestMismatch
from unionfs.oci.platforms import host_platform, parse_platform
from unionfs.oci.reference import Reference
from unionfs.oci.registry import client, download, failures, transport
from unionfs.oci.registry.credentials import Credential
from unionfs.oci.registry.failures import NotNow, Refused
from unionfs.oci.registry.mirrors import Registries
from unionfs.oci.registry.tags import all_tags
from unionfs.oci.store import SizeMismatch


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_DELAY", 0.005)


@pytest.fixture
def hostile(lab: Lab, made: Made) -> Iterator[Hostile]:
    """Run a registry that serves ``app:v1``."""
    with Hostile(lab.store).running() as registry:
        registry.tags["v1"] = made.descriptor.digest
        yield registry


@pytest.fixture
def name(hostile: Hostile) -> str:
    return f"{hostile.host}/app:v1"


@pytest.fixture
def big(made: Made) -> Digest:
    """Return the layer of more than one chunk."""
    return made.manifest.layers[1].digest


def at(target: Digest, answer: Trick) -> Trick:
    """Play a trick on whoever gets *target*."""

    def trick(request: Request) -> Reply | None:
        return answer(request) if request.method == "GET" and request.name == str(target) else None

    return trick


def always(reply: Reply) -> Trick:
    return lambda request: reply


def assert_nothing_is_kept(lab: Lab, wanted: Digest) -> None:
    assert not lab.fresh.has(wanted)
    assert [digest for digest in lab.fresh if Digest.of(lab.fresh.path(digest).read_bytes()) != digest] == []


async def test_an_honest_one_is_believed(hostile: Hostile, name: str, lab: Lab, made: Made) -> None:
    await lab.pull(name)
    lab.assert_whole(made)
    assert len(hostile.asked("GET", "blobs")) == len(made.blobs)


async def test_a_blob_of_another_digest_is_dropped(hostile: Hostile, name: str, lab: Lab, big: Digest) -> None:
    wrong = bytes(lab.store.size(big))
    hostile.tricks.append(at(big, lambda request: Reply.of(wrong)))
    with pytest.raises(DigestMismatch):
        await lab.pull(name)
    assert_nothing_is_kept(lab, big)
    assert len([each for each in hostile.asked("GET", "blobs") if each.name == str(big)]) == 1


async def test_a_manifest_of_another_digest_is_dropped(hostile: Hostile, name: str, lab: Lab, made: Made) -> None:
    hostile.tricks.append(at(made.descriptor.digest, lambda request: Reply.of(b"{}")))
    with pytest.raises(DigestMismatch):
        await lab.pull(name)
    assert_nothing_is_kept(lab, made.descriptor.digest)


@pytest.mark.parametrize("difference", [-1, 1, 1 << 40])
async def test_a_blob_announced_with_another_length_is_not_even_fetched(
    hostile: Hostile, name: str, lab: Lab, big: Digest, difference: int
) -> None:
    length = lab.store.size(big) + difference
    hostile.tricks.append(at(big, lambda request: Reply(body=b"x", length=length)))
    with pytest.raises(SizeMismatch):
        await lab.pull(name)
    assert_nothing_is_kept(lab, big)


async def test_an_endless_blob_ends_at_the_size_that_was_promised(
    hostile: Hostile, name: str, lab: Lab, big: Digest
) -> None:
    endless = itertools.repeat(bytes(1 << 16))
    hostile.tricks.append(at(big, lambda request: Reply(body=endless)))
    with pytest.raises(SizeMismatch):
        await lab.pull(name)
    assert_nothing_is_kept(lab, big)
    assert hostile.sent < lab.store.size(big) + 16 * CHUNK, "what is in buffers and sockets, no more"


async def test_an_endless_manifest_ends_at_the_limit(hostile: Hostile, name: str, lab: Lab, made: Made) -> None:
    endless = itertools.repeat(b" " * (1 << 16))
    hostile.tricks.append(at(made.descriptor.digest, lambda request: Reply(body=endless)))
    with pytest.raises(Refused, match=f"longer than {client.MAX_MANIFEST}"):
        await lab.pull(name)


async def test_a_manifest_that_dribbles_is_given_up(
    hostile: Hostile, name: str, lab: Lab, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(client, "DOCUMENT_SECONDS", 0.1)
    monkeypatch.setattr(failures, "ATTEMPTS", 2)

    def dribble(_request: Request) -> Reply:
        return Reply(body=(b" " for _ in iter(lambda: over.wait(0.02), True)))

    hostile.tricks.append(at(made.descriptor.digest, dribble))
    with pytest.raises(NotNow, match="did not arrive"):
        await lab.pull(name)
    over.set()


async def test_a_blob_that_breaks_off_is_resumed(
    hostile: Hostile, name: str, lab: Lab, made: Made, big: Digest
) -> None:
    whole = lab.store.path(big).read_bytes()
    for start, end in ((0, 700_000), (700_000, 1_500_000)):
        hostile.tricks.append(once(at(big, lambda request, start=start, end=end: partial(whole, start, end))))  # type: ignore[misc]  # mypy infers no lambda with a default
    await lab.pull(name)
    lab.assert_whole(made)
    ranges = [each.headers.get("range") for each in hostile.asked("GET", "blobs") if each.name == str(big)]
    assert ranges == [None, "bytes=700000-", "bytes=1500000-"]
    assert "broken off" in str(lab.heard) or "peer closed" in str(lab.heard)


def partial(whole: bytes, start: int, end: int) -> Reply:
    """Return the bytes from *start*, announced whole, cut at *end*."""
    headers = {"Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"} if start else {}
    return Reply(206 if start else 200, headers, whole[start:end], len(whole) - start)


async def test_a_server_without_ranges_sends_it_all_again(
    hostile: Hostile, name: str, lab: Lab, made: Made, big: Digest
) -> None:
    whole = lab.store.path(big).read_bytes()
    hostile.tricks.append(once(at(big, lambda request: partial(whole, 0, 700_000))))
    hostile.tricks.append(at(big, lambda request: Reply.of(whole)))
    await lab.pull(name)
    lab.assert_whole(made)


async def test_a_part_from_elsewhere_in_the_blob_is_refused(hostile: Hostile, name: str, lab: Lab, big: Digest) -> None:
    whole = lab.store.path(big).read_bytes()
    hostile.tricks.append(once(at(big, lambda request: partial(whole, 0, 700_000))))
    hostile.tricks.append(at(big, lambda request: partial(whole, 5, len(whole))))
    with pytest.raises(Refused, match="asked for bytes from 700000 on"):
        await lab.pull(name)
    assert_nothing_is_kept(lab, big)


async def test_a_wrong_part_left_by_somebody_else_accuses_nobody(
    hostile: Hostile, name: str, lab: Lab, made: Made, big: Digest
) -> None:
    with lab.fresh.writer(big, lab.store.size(big)) as writer:
        writer.write(b"not what belongs here")
    await lab.pull(name)
    lab.assert_whole(made)
    assert "the resumed part was wrong" in str(lab.heard)


async def test_a_blob_that_always_breaks_off_is_given_up(hostile: Hostile, name: str, lab: Lab, big: Digest) -> None:
    hostile.tricks.append(at(big, lambda request: Reply(body=b"", length=lab.store.size(big))))
    with pytest.raises(NotNow):
        await lab.pull(name)
    assert len([each for each in hostile.asked("GET", "blobs") if each.name == str(big)]) == failures.ATTEMPTS


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_later_is_obeyed(hostile: Hostile, name: str, lab: Lab, made: Made, status: int) -> None:
    for target in (made.descriptor.digest, made.manifest.layers[0].digest):
        for _ in range(2):
            hostile.tricks.append(once(at(target, always(Reply.status_only(status)))))
    await lab.pull(name)
    lab.assert_whole(made)
    assert len([note for note in lab.heard.notes if f"{status}" in note and "trying again" in note]) == 4


async def test_a_server_that_wants_to_be_left_alone_for_long_is(hostile: Hostile, name: str, lab: Lab) -> None:
    hostile.tricks.append(always(Reply.status_only(429, Retry_After="3600")))
    with pytest.raises(NotNow, match="429"):
        await lab.pull(name)
    assert len(hostile.requests) == 1


async def test_redirects_in_circles_end(hostile: Hostile, name: str, lab: Lab, big: Digest) -> None:
    hostile.tricks.append(at(big, lambda request: Reply.status_only(307, Location=request.path)))
    with pytest.raises(Refused, match="more than 5 redirects"):
        await lab.pull(name)
    assert len([each for each in hostile.asked("GET", "blobs") if each.name == str(big)]) == transport.MAX_HOPS + 1


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://registry.example/x", "ftp://127.0.0.1/", "http://["]
)
async def test_a_redirect_out_of_what_is_allowed_is_not_followed(
    hostile: Hostile, name: str, lab: Lab, big: Digest, location: str
) -> None:
    hostile.tricks.append(at(big, always(Reply.status_only(302, Location=location))))
    with pytest.raises(Refused, match="redirects to"):
        await lab.pull(name)


REMOTE = '[registry."registry.test"]\nplain_http = true\n'


async def test_a_proxy_stands_between_us_and_others(
    hostile: Hostile, lab: Lab, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{hostile.host}")
    await lab.pull("registry.test/app:v1", REMOTE)
    lab.assert_whole(made)
    assert {each.headers["host"] for each in hostile.requests} == {"registry.test"}


async def test_no_proxy_stands_between_us_and_this_machine(
    hostile: Hostile, name: str, lab: Lab, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    await lab.pull(name)
    lab.assert_whole(made)


async def test_another_machine_does_not_send_us_to_our_own_services(
    hostile: Hostile, lab: Lab, big: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{hostile.host}")
    hostile.tricks.append(at(big, always(Reply.status_only(307, Location="http://127.0.0.1:631/printers"))))
    with pytest.raises(Refused, match="redirects to http://127"):
        await lab.pull("registry.test/app:v1", REMOTE)


@pytest.fixture
def guarded(hostile: Hostile, lab: Lab) -> Hostile:
    """Return the registry, which now wants a password that the lab knows."""

    def guard(request: Request) -> Reply | None:
        if "authorization" in request.headers:
            return None
        return Reply.status_only(401, WWW_Authenticate='Basic realm="x"')

    hostile.tricks.append(guard)
    lab.docker.store(hostile.host, Credential("me", "secret"))
    return hostile


async def test_another_host_never_sees_the_password(guarded: Hostile, name: str, lab: Lab, made: Made) -> None:
    with Hostile(lab.store).running() as elsewhere:

        def away(request: Request) -> Reply | None:
            if request.kind != "blobs":
                return None
            return Reply.status_only(307, Location=f"http://{elsewhere.host}{request.path}")

        guarded.tricks.append(away)
        await lab.pull(name)
    lab.assert_whole(made)
    assert len(elsewhere.requests) == len(made.blobs)
    assert all("authorization" not in each.headers for each in elsewhere.requests)
    assert "authorization" in guarded.requests[-1].headers


async def test_a_challenge_of_another_host_is_not_answered(guarded: Hostile, name: str, lab: Lab, big: Digest) -> None:
    with Hostile(lab.store).running() as elsewhere:
        elsewhere.tricks.append(always(Reply.status_only(401, WWW_Authenticate='Basic realm="give me"')))
        guarded.tricks.append(at(big, always(Reply.status_only(307, Location=f"http://{elsewhere.host}/x"))))
        with pytest.raises(Refused) as refused:
            await lab.pull(name)
    assert refused.value.status == 401
    assert ["authorization" in each.headers for each in elsewhere.requests] == [False]


async def test_a_realm_of_another_host_is_not_sent_the_password(
    guarded: Hostile, name: str, lab: Lab, big: Digest
) -> None:
    with Hostile(lab.store).running() as elsewhere:
        realm = f'Bearer realm="http://{elsewhere.host}/token"'
        elsewhere.tricks.append(always(Reply.status_only(401, WWW_Authenticate=realm)))
        guarded.tricks.append(at(big, always(Reply.status_only(307, Location=f"http://{elsewhere.host}/x"))))
        with pytest.raises(Refused, match="401"):
            await lab.pull(name)
    assert [each.path for each in elsewhere.requests] == ["/x"]


@pytest.mark.parametrize("realm", ["http://auth.example/token", "file:///etc/passwd", "//x", "http://["])
async def test_a_password_does_not_go_to_a_realm_without_tls(hostile: Hostile, name: str, lab: Lab, realm: str) -> None:
    lab.docker.store(hostile.host, Credential("me", "secret"))
    hostile.tricks.append(always(Reply.status_only(401, WWW_Authenticate=f'Bearer realm="{realm}"')))
    with pytest.raises(Refused, match="token server"):
        await lab.pull(name)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"token": 1}', b"{}", b'{"token": "a\\nb"}', b'{"expires_in": -1}', b"x" * (2 << 20)]
)
async def test_a_token_server_that_answers_nonsense_is_an_error(
    hostile: Hostile, name: str, lab: Lab, answer: bytes
) -> None:
    def trick(request: Request) -> Reply | None:
        if request.path == "/token":
            return Reply.of(answer)
        return Reply.status_only(401, WWW_Authenticate=f'Bearer realm="http://{hostile.host}/token"')

    hostile.tricks.append(trick)
    with pytest.raises(Refused):
        await lab.pull(name)


async def test_a_server_that_is_never_content_is_asked_a_few_times_only(guarded: Hostile, name: str, lab: Lab) -> None:
    guarded.tricks.insert(0, always(Reply.status_only(401, WWW_Authenticate='Basic realm="x"')))
    with pytest.raises(Refused, match="401"):
        await lab.pull(name)
    assert len(guarded.requests) == 2


async def test_what_a_server_says_cannot_drive_the_terminal(hostile: Hostile, name: str, lab: Lab) -> None:
    said = b'{"errors": [{"code": "DENIED", "message": "no\\u001b[2J\\nway"}]}'
    hostile.tricks.append(lambda request: Reply(403, {}, said, len(said)))
    with pytest.raises(Refused) as refused:
        await lab.pull(name.replace(":v1", f"@{Digest.of(b'')}"))
    assert "no?[2J way" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a valid manifest"),
        (b"[" * 100_000, "not a valid manifest"),
        (b'{"schemaVersion": 1}', "schema 1"),
        (b'{"schemaVersion": 2, "mediaType": "application/x-evil"}', "application/x-evil"),
        (b'{"schemaVersion": 2, "manifests": []}', "no image for"),
        (b'{"schemaVersion": 2, "manifests": [], "layers": []}', "an index and a manifest at once"),
    ],
)
async def test_a_document_that_is_no_image_is_named(hostile: Hostile, lab: Lab, content: bytes, why: str) -> None:
    digest = lab.store.put(content)

    def trick(request: Request) -> Reply | None:
        return Reply.of(content) if request.name == str(digest) else None

    hostile.tricks.append(trick)
    with pytest.raises(ImageError, match=why):
        await lab.pull(f"{hostile.host}/app@{digest}")


@pytest.mark.parametrize("status", [200, 405])
async def test_a_registry_that_answers_no_head_is_asked_for_the_manifest(
    hostile: Hostile, name: str, lab: Lab, made: Made, status: int
) -> None:
    hostile.tricks.append(lambda request: Reply.status_only(status) if request.method == "HEAD" else None)
    await lab.pull(name)
    lab.assert_whole(made)


async def test_a_blob_that_dribbles_is_given_up(
    hostile: Hostile, name: str, lab: Lab, big: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(failures, "ATTEMPTS", 2)

    def dribble(_request: Request) -> Reply:
        return Reply(body=(b" " for _ in iter(lambda: over.wait(0.02), True)))

    hostile.tricks.append(at(big, dribble))
    with pytest.raises(NotNow, match="less than"):
        await lab.pull(name)
    over.set()


async def test_a_manifest_of_another_size_than_its_index_says_is_refused(
    hostile: Hostile, lab: Lab, made: Made
) -> None:
    larger = Made(replace(made.descriptor, size=made.descriptor.size + 1), made.manifest)
    index = index_of(lab.store, {host_platform(): larger})
    with pytest.raises(SizeMismatch):
        await lab.pull(f"{hostile.host}/app@{index.digest}")


async def test_an_image_of_another_platform_is_told_and_refused_if_another_was_asked_for(
    hostile: Hostile, lab: Lab
) -> None:
    other = make_image(lab.store, layer_of({"a": b"1"}), platform=parse_platform("linux/s390x"))
    name = f"{hostile.host}/app@{other.descriptor.digest}"
    with pytest.raises(ImageError, match="is for linux/s390x, not for linux/arm64"):
        await lab.pull(name, platform=parse_platform("linux/arm64"))
    await lab.pull(name)
    assert [text for text in lab.heard.warnings if "is for linux/s390x" in text]


async def test_a_tag_that_means_no_digest_is_an_error(hostile: Hostile, name: str, lab: Lab) -> None:
    hostile.tricks.append(lambda request: Reply.of(b"", Docker_Content_Digest="sha256:../../etc/passwd"))
    with pytest.raises(RegistryError, match="sha256"):
        await lab.pull(name)


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (Reply.of(b"[]"), "not a list of tags"),
        (Reply.of(b'{"tags": ["../x"]}'), "not a tag"),
        (Reply.of(b'{"tags": []}', Link='</v2/app/tags/list?last=x>; rel="next"'), "more than 3 pages"),
    ],
    ids=["nonsense", "no tag", "endless"],
)
async def test_a_list_of_tags_is_not_trusted(
    hostile: Hostile, lab: Lab, page: Reply, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_PAGES", 3)
    hostile.tricks.append(always(page))
    with pytest.raises(UnionFSError, match=why):
        await all_tags(Reference.parse(f"{hostile.host}/app"), Registries(), lab.docker, lab.heard)


async def test_tags_come_on_as_many_pages_as_they_like(hostile: Hostile, lab: Lab) -> None:
    def two_pages(request: Request) -> Reply:
        if "last" in request.query:
            return Reply.of(b'{"tags": ["c"]}')
        return Reply.of(b'{"tags": ["a", "b"]}', Link='</v2/app/tags/list?last=b>; rel="next"')

    hostile.tricks.append(two_pages)
    found = await all_tags(Reference.parse(f"{hostile.host}/app"), Registries(), lab.docker, lab.heard)
    assert [reference.tag for reference in found] == ["a", "b", "c"]
