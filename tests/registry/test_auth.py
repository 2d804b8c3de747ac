"""What servers ask for in WWW-Authenticate, and what docker's files and helpers know."""

import base64
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.errors import ConfigError
from unionfs.oci.registry.auth import credential_for
from unionfs.oci.registry.challenge import Challenge, choose, parse
from unionfs.oci.registry.credentials import Credential, DockerConfig
from unionfs.oci.registry.mirrors import Endpoint, Login

URL = "https://auth.example/token"
REALM = f'realm="{URL}"'

CHALLENGES = [
    (['Basic realm="x"'], [Challenge("basic", {"realm": "x"})]),
    (["basic REALM=x"], [Challenge("basic", {"realm": "x"})]),
    (["Basic"], [Challenge("basic")]),
    (
        [f'Bearer {REALM},service="s",scope="repository:a/b:pull,push"'],
        [Challenge("bearer", {"realm": URL, "service": "s", "scope": "repository:a/b:pull,push"})],
    ),
    (['Bearer realm = "a" , service = b'], [Challenge("bearer", {"realm": "a", "service": "b"})]),
    ([r'Basic realm="a \"b\", c"'], [Challenge("basic", {"realm": 'a "b", c'})]),
    (['Basic realm="x", Bearer realm="y"'], [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})]),
    (['Basic realm="x"', "Bearer realm=y"], [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})]),
    (['Negotiate, Basic realm="x"'], [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
    (['NTLM TlRMTVNTUAAB==, Basic realm="x"'], [Challenge("ntlm"), Challenge("basic", {"realm": "x"})]),
    ([""], []),
    ([","], []),
    (['="x"'], []),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "challenges"), CHALLENGES)
def test_a_challenge_is_read(headers: list[str], challenges: list[Challenge]) -> None:
    assert parse(headers) == challenges


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        (['Basic realm="x"', f"Bearer {REALM}"], "bearer"),
        (["Bearer", 'Basic realm="x"'], "basic"),
        (["Negotiate"], None),
        ([], None),
    ],
)
def test_a_token_is_preferred_to_a_password(headers: list[str], scheme: str | None) -> None:
    chosen = choose(parse(headers))
    assert (chosen and chosen.scheme) == scheme


@given(st.lists(st.text(alphabet=st.characters(max_codepoint=255), max_size=60), max_size=3))
def test_any_header_is_read_without_harm(headers: list[str]) -> None:
    assert all(challenge.scheme for challenge in parse(headers))


HUB = "https://index.docker.io/v1/"


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


LOOKUPS = [
    ({"r.example": auth("me:pw")}, "r.example", Credential("me", "pw")),
    ({"r.example": auth("me:p:w")}, "r.example", Credential("me", "p:w")),
    ({"r.example": auth("me:pw")}, "other.example", None),
    ({"r.example:5000": auth("me:pw")}, "r.example", None),
    ({"https://r.example": auth("me:pw")}, "r.example", Credential("me", "pw")),
    ({"https://r.example/v2/": auth("me:pw")}, "r.example", Credential("me", "pw")),
    ({"https://r.example/v1/": auth("a:b"), "r.example": auth("c:d")}, "r.example", Credential("c", "d")),
    ({HUB: auth("me:pw")}, "docker.io", Credential("me", "pw")),
    ({HUB: auth("me:pw")}, "registry-1.docker.io", Credential("me", "pw")),
    ({"docker.io": auth("me:pw")}, "registry-1.docker.io", Credential("me", "pw")),
    ({"r.example": {"identitytoken": "t"}}, "r.example", Credential(identity_token="t")),
    ({"r.example": {"username": "me", "password": "pw"}}, "r.example", Credential("me", "pw")),
    ({"r.example": {}}, "r.example", None),
    ({}, "r.example", None),
]


@pytest.mark.parametrize(("auths", "host", "credential"), LOOKUPS)
def test_credentials_are_found_as_docker_finds_them(
    tmp_path: Path, auths: dict[str, object], host: str, credential: Credential | None
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": auths}), encoding="utf-8")
    assert DockerConfig.load(path).get(host) == credential


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"auths": [1]}', "auths is not an object"),
        ('{"auths": {"r.example": {"auth": "%%%"}}}', "not base64"),
        ('{"auths": {"r.example": {"auth": "bm9jb2xvbg=="}}}', "not USER:PASSWORD"),
        ('{"credsStore": "../x"}', "not a credential helper's name"),
        ('{"credHelpers": "x"}', "credHelpers is not an object"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=why):
        DockerConfig.load(path).get("r.example")


def test_the_files_place_is_dockers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DockerConfig.load().path == tmp_path / "home/.docker/config.json"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "elsewhere"))
    assert DockerConfig.load().path == tmp_path / "elsewhere/config.json"


def test_podmans_files_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, **auths: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"auths": {host: auth(pair) for host, pair in auths.items()}}), encoding="utf-8")

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    write(tmp_path / "home/.docker/config.json", one="docker:1")
    write(tmp_path / "run/containers/auth.json", **{"one": "podman:1", "two": "podman:2", "part/team": "podman:3"})
    write(tmp_path / "home/config/containers/auth.json", two="lasting:2", three="lasting:3")
    config = DockerConfig.load()
    assert [config.get(host) for host in ("one", "two", "three", "part")] == [
        Credential("docker", "1"), Credential("podman", "2"), Credential("lasting", "3"), None,
    ]  # fmt: skip
    assert config.erase("two")
    assert [DockerConfig.load().get(host) for host in ("one", "two")] == [Credential("docker", "1"), None]
    write(tmp_path / "named.json", two="named:2")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "named.json"))
    assert [DockerConfig.load().get(host) for host in ("one", "two")] == [None, Credential("named", "2")]
    DockerConfig.load().store("four", Credential("me", "4"))
    assert DockerConfig.load(tmp_path / "named.json").get("four") == Credential("me", "4")


def test_logging_in_and_out_keeps_what_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"psFormat": "x", "auths": {"other": auth("a:b")}}), encoding="utf-8")
    path.chmod(0o644)

    DockerConfig.load(path).store("r.example", Credential("me", "pw"))
    assert DockerConfig.load(path).get("r.example") == Credential("me", "pw")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert DockerConfig.load(path).erase("r.example")
    assert not DockerConfig.load(path).erase("r.example")
    assert json.loads(path.read_text()) == {"psFormat": "x", "auths": {"other": auth("a:b")}}
    assert [each.name for each in path.parent.iterdir()] == ["config.json"]


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "config.json"
    real.write_text("{}", encoding="utf-8")
    link.symlink_to(real)
    DockerConfig.load(link).store("r.example", Credential("me", "pw"))
    assert link.is_symlink()
    assert DockerConfig.load(real).get("r.example") == Credential("me", "pw")


HELPER = """#!/bin/sh
read -r line
echo "$1 $line" >> "{log}"
case "$1 $line" in
    "get vault.example") echo '{{"ServerURL":"vault.example","Username":"me","Secret":"pw"}}' ;;
    "get token.example") echo '{{"ServerURL":"token.example","Username":"<token>","Secret":"t"}}' ;;
    "get odd.example") echo 'surprise' ;;
    "get locked.example") echo 'the key ring is locked' >&2; exit 1 ;;
    get*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture
def helped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DockerConfig:
    """Return a configuration whose credsStore is a program that logs what it is asked."""
    program = tmp_path / "bin" / "docker-credential-test"
    program.parent.mkdir()
    program.write_text(HELPER.format(log=tmp_path / "log"), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return DockerConfig(tmp_path / "config.json", {"credsStore": "test"})


@pytest.mark.parametrize(
    ("host", "credential"),
    [
        ("vault.example", Credential("me", "pw")),
        ("token.example", Credential(identity_token="t")),
        ("unknown.example", None),
    ],
)
def test_a_helper_is_asked(helped: DockerConfig, host: str, credential: Credential | None) -> None:
    assert helped.get(host) == credential


def test_what_the_helper_has_not_may_be_in_the_file(helped: DockerConfig) -> None:
    helped.content["auths"] = {"unknown.example": auth("me:pw")}
    assert helped.get("unknown.example") == Credential("me", "pw")


def test_what_the_helper_has_comes_before_the_file(helped: DockerConfig) -> None:
    helped.content["auths"] = {"vault.example": auth("stale:pw")}
    assert helped.get("vault.example") == Credential("me", "pw")


@pytest.mark.parametrize(("host", "why"), [("odd.example", "not what it should be"), ("locked.example", "locked")])
def test_a_helper_that_fails_is_no_anonymous_request(helped: DockerConfig, host: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        helped.get(host)


def test_a_helper_for_one_registry_comes_before_the_store_for_all(helped: DockerConfig) -> None:
    helped.content["credHelpers"] = {"vault.example": "absent"}
    with pytest.raises(ConfigError, match="docker-credential-absent is not installed"):
        helped.get("vault.example")


def test_a_login_is_kept_by_the_helper_and_not_in_the_file(helped: DockerConfig, tmp_path: Path) -> None:
    helped.store("vault.example", Credential("me", "pw"))
    assert helped.erase("vault.example")
    lines = (tmp_path / "log").read_text().splitlines()
    stored = json.loads(lines[0].removeprefix("store "))
    assert stored == {"ServerURL": "vault.example", "Username": "me", "Secret": "pw"}
    assert lines[1:] == ["get vault.example", "erase vault.example"]
    assert "pw" not in helped.path.read_text()
    assert json.loads(helped.path.read_text())["auths"] == {}


def test_a_part_of_a_registry_has_credentials_of_its_own(tmp_path: Path) -> None:
    names = ("quay.io", "quay.io/team", "quay.io/team/app", "docker.io/library")
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {name: auth(f"{name}:pw") for name in names}}), encoding="utf-8")
    config = DockerConfig.load(path)

    def found(host: str, repository: str) -> str | None:
        credential = credential_for(Endpoint(host=host), config, repository)
        return credential.username if credential else None

    assert found("quay.io", "team/app") == "quay.io/team/app"
    assert found("quay.io", "team/app/inner") == "quay.io/team/app"
    assert found("quay.io", "team/other") == "quay.io/team"
    assert found("quay.io", "teamwork/app") == "quay.io"
    assert found("registry-1.docker.io", "library/debian") == "docker.io/library"
    assert found("registry-1.docker.io", "me/debian") is None
    assert found("other.example", "team/app") is None


def test_credentials_beside_a_host_come_before_dockers(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from file\n", encoding="utf-8")
    docker = DockerConfig(tmp_path / "config.json", {"auths": {"m.example": auth("docker:pw")}})

    def found(login: Login | None) -> Credential | None:
        return credential_for(Endpoint(host="m.example", login=login), docker)

    assert found(None) == Credential("docker", "pw")
    assert found(Login(username="me", password="own")) == Credential("me", "own")
    assert found(Login(username="me", password_file=tmp_path / "secret")) == Credential("me", "from file")
    assert found(Login()) is None, "anonymous: nothing is sent although docker has something"
    with pytest.raises(ConfigError, match="password_file"):
        found(Login(username="me", password_file=tmp_path / "absent"))


def test_secrets_are_not_shown() -> None:
    assert "hush" not in repr(Credential("me", "hush", "hush"))
