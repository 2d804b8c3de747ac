"""Mirrors at work: who is asked, what is believed, when the next one is, and what the user reads of it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.registry.conftest import Lab
from tests.registry.hostile import Hostile, Reply, Request, Trick
from tests.registry.images import Made
from tests.registry.servers import free_port, registry
from unionfs.errors import RegistryError
from unionfs.oci.digest import CHUNK, DigestMismatch
from unionfs.oci.registry import failures
from unionfs.oci.registry.credentials import Credential


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_DELAY", 0.005)


class Town:
    """A registry and its two mirrors, all with the same image under ``app:v1``."""

    def __init__(self, lab: Lab, made: Made, stack: ExitStack) -> None:
        self.lab = lab
        self.made = made
        self.first, self.second, self.origin = (stack.enter_context(Hostile(lab.store).running()) for _ in range(3))
        for each in (self.first, self.second, self.origin):
            each.tags["v1"] = made.descriptor.digest

    def toml(self, first: str = "fallback = true", second: str = "fallback = true") -> str:
        """Return the configuration with these lines for the two mirrors."""
        mirror = f'[[registry."{self.origin.host}".mirror]]\nurl = "http://{{}}"\n{{}}\n'
        return mirror.format(self.first.host, first) + mirror.format(self.second.host, second)

    async def pull(self, toml: str) -> None:
        await self.lab.pull(f"{self.origin.host}/app:v1", toml)
        self.lab.assert_whole(self.made)

    def asked(self) -> list[bool]:
        """Return whether each host was asked for anything, in order."""
        return [bool(each.requests) for each in (self.first, self.second, self.origin)]


@pytest.fixture
def town(lab: Lab, made: Made) -> Iterator[Town]:
    with ExitStack() as stack:
        yield Town(lab, made, stack)


def always(status: int) -> Trick:
    return lambda request: Reply.status_only(status)


async def test_the_first_mirror_is_enough(town: Town) -> None:
    await town.pull(town.toml())
    assert town.asked() == [True, False, False]


FAILURES = {
    "absent": always(404),
    "not allowed": always(403),
    "wants a password": always(401),
    "out of order": always(500),
    "overloaded": always(503),
    "limits the rate": lambda request: Reply.status_only(429, Retry_After="100"),
    "redirects in circles": lambda request: Reply.status_only(307, Location=request.path),
    "wrong content": lambda request: Reply.of(b"{}") if request.method == "GET" else None,
    "breaks off": lambda request: Reply(body=b"", length=10),
}


@pytest.mark.parametrize("trick", FAILURES.values(), ids=FAILURES)
async def test_with_fallback_any_failure_goes_on_to_the_next(town: Town, trick: Trick) -> None:
    town.first.tricks.append(trick)
    await town.pull(town.toml())
    assert town.asked() == [True, True, False]
    assert "going on, because fallback = true" in str(town.lab.heard)


@pytest.mark.parametrize("trick", FAILURES.values(), ids=FAILURES)
async def test_without_fallback_any_failure_is_the_end(town: Town, trick: Trick) -> None:
    town.first.tricks.append(trick)
    with pytest.raises(RegistryError, match="nobody else is asked: fallback = false"):
        await town.pull(town.toml("fallback = false"))
    assert town.asked() == [True, False, False]
    assert "stopping, because fallback = false" in str(town.lab.heard)


async def test_an_unreachable_mirror_is_tried_once(town: Town) -> None:
    toml = town.toml().replace(town.first.host, f"127.0.0.1:{free_port()}")
    await town.pull(toml)
    assert str(town.lab.heard).count("nobody answers") == 1
    assert "passed over: it did not answer before" in str(town.lab.heard)
    assert "trying again" not in str(town.lab.heard)


async def test_without_the_right_to_resolve_a_mirror_is_asked_by_digest_only(town: Town) -> None:
    await town.pull(town.toml('fallback = false\nrights = ["pull"]', 'fallback = false\nrights = ["resolve"]'))
    assert {each.name == "v1" for each in town.first.requests} == {False}
    assert [each.name for each in town.second.requests] == ["v1"]
    assert town.asked() == [True, True, False]
    assert "passed over: it has no right to resolve" in str(town.lab.heard)


async def test_a_mirror_that_served_wrong_content_is_never_believed_again(town: Town) -> None:
    config = town.made.manifest.config

    def wrong(request: Request) -> Reply | None:
        return Reply.of(bytes(config.size)) if request.name == str(config.digest) else None

    town.first.tricks.append(wrong)
    await town.pull(town.toml())
    assert [each.name for each in town.first.asked("GET", "blobs")] == [str(config.digest)]
    assert str(town.lab.heard).count("it served wrong content before") == len(town.made.manifest.layers)


async def test_a_false_first_half_is_not_blamed_on_who_sends_the_second(town: Town) -> None:
    layer = town.made.manifest.layers[1]

    def poison(request: Request) -> Reply | None:
        if request.name != str(layer.digest):
            return None
        if "range" in request.headers:
            return Reply.status_only(404)
        return Reply(body=bytes(CHUNK), length=layer.size)

    town.first.tricks.append(poison)
    await town.pull(town.toml())
    assert "the resumed part was wrong; fetching it all" in str(town.lab.heard)
    ranges = [each.headers.get("range") for each in town.second.requests if each.name == str(layer.digest)]
    assert ranges == [f"bytes={CHUNK}-", None]


async def test_when_all_fail_the_error_names_each(town: Town) -> None:
    town.first.tricks.append(always(404))
    town.second.tricks.append(always(403))
    town.origin.tricks.append(always(404))
    with pytest.raises(RegistryError) as error:
        await town.pull(town.toml())
    for each in (town.first, town.second, town.origin):
        assert each.host in str(error.value)


async def test_wrong_content_of_the_only_host_is_called_that(town: Town) -> None:
    town.origin.tricks.append(FAILURES["wrong content"])
    with pytest.raises(DigestMismatch):
        await town.pull("")


async def test_a_mirror_gets_its_own_credentials_and_the_registry_its_own(town: Town) -> None:
    def guard(request: Request) -> Reply | None:
        if "authorization" not in request.headers:
            return Reply.status_only(401, WWW_Authenticate='Basic realm="x"')
        return Reply.status_only(403) if request.kind == "blobs" else None

    town.lab.docker.store(town.first.host, Credential("docker", "first"))
    town.lab.docker.store(town.second.host, Credential("docker", "second"))
    town.lab.docker.store(town.origin.host, Credential("docker", "origin"))
    for each in (town.first, town.second):
        each.tricks.append(guard)
    town.origin.tricks.append(lambda request: None if "authorization" in request.headers else guard(request))
    own = 'fallback = true\nusername = "written"\npassword = "here"'
    await town.pull(town.toml("fallback = true", own))
    expected = [Credential("docker", "first"), Credential("written", "here"), Credential("docker", "origin")]
    for host, credential in zip((town.first, town.second, town.origin), expected, strict=True):
        sent = {each.headers["authorization"] for each in host.requests if "authorization" in each.headers}
        assert sent == {credential.basic()}


async def test_an_anonymous_mirror_is_sent_nothing(town: Town) -> None:
    town.lab.docker.store(town.first.host, Credential("docker", "first"))
    town.first.tricks.append(lambda request: Reply.status_only(401, WWW_Authenticate='Basic realm="x"'))
    await town.pull(town.toml("fallback = true\nanonymous = true"))
    assert all("authorization" not in each.headers for each in town.first.requests)


async def test_a_mirror_of_many_registries_is_told_which(town: Town) -> None:
    rewrite = 'rewrite = { "" = "hub" }'
    await town.pull(town.toml(f"fallback = false\nnamespace = true\n{rewrite}"))
    assert {each.query["ns"][0] for each in town.first.requests} == {town.origin.host}
    assert all(each.path.startswith("/v2/hub/app/") for each in town.first.requests)


async def test_a_redirect_is_followed_to_the_letter(town: Town) -> None:
    def away(request: Request) -> Reply | None:
        if request.kind != "blobs":
            return None
        return Reply.status_only(307, Location=f"http://{town.second.host}{request.path}?signature=x")

    town.first.tricks.append(away)
    await town.pull(town.toml("fallback = false\nnamespace = true"))
    assert [each.query for each in town.second.requests] == [{"signature": ["x"]}] * len(town.made.blobs)


async def test_a_push_goes_past_the_mirrors(town: Town) -> None:
    await town.lab.push(f"{town.origin.host}/app:v2", town.made, town.toml())
    assert town.asked() == [False, False, True]


async def test_a_real_pull_through_mirror(tmp_path: Path, lab: Lab, made: Made) -> None:
    with registry(tmp_path / "origin") as origin:
        await lab.push(f"{origin}/app:v1", made)
        with registry(tmp_path / "mirror", proxy={"remoteurl": f"http://{origin}"}) as mirror:
            toml = f'[[registry."{origin}".mirror]]\nurl = "http://{mirror}"\nfallback = false\n'
            await lab.pull(f"{origin}/app:v1", toml)
    lab.assert_whole(made)
    assert f"http://{mirror}/app: good" in str(lab.heard)
    assert f"{origin}/app" not in str(lab.heard).replace(f"resolve {origin}/app:v1", "")
