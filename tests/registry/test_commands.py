"""pull, push, login and logout as users type them, and other tools at the other end."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.conftest import Lab
from tests.registry.hostile import Hostile, Reply
from tests.registry.images import Made, index_of, layer_of, make_image
from tests.registry.servers import HTPASSWD, PASSWORD, USER, needs, registry
from unionfs.cli.main import main
from unionfs.oci.images import Images
from unionfs.oci.platforms import parse_platform
from unionfs.oci.registry.credentials import Credential, DockerConfig


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    """Return the store that the commands use."""
    monkeypatch.setenv("UNIONFS_ROOT", str(tmp_path / "images"))
    return Images()


@pytest.fixture
def server(lab: Lab, made: Made) -> Iterator[Hostile]:
    """Run an honest registry in this process that serves ``app:v1``."""
    with Hostile(lab.store).running() as registry:
        registry.tags["v1"] = made.descriptor.digest
        yield registry


def skopeo(*arguments: str) -> None:
    command = [needs("skopeo"), "--insecure-policy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def files_of(images: Images, made: Made, number: int) -> list[str]:
    """Return the names in a layer that was unpacked."""
    layer = images.by_manifest(made.descriptor.digest).layers[number]
    return sorted(os.listdir(images.root / "layers" / layer.chain_id.hex))


def test_pull_names_and_unpacks(
    server: Hostile, images: Images, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{server.host}/app:v1"
    assert main(["pull", name]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"Digest: {made.descriptor.digest}",
        f"Status: Downloaded newer image for {name}",
        name,
    ]
    assert err == "", "not a terminal: no progress"
    assert [str(each) for each in images.find(name).names] == [name]
    assert files_of(images, made, 1) == ["big"]
    assert main(["pull", name]) == 0
    assert f"Image is up to date for {name}" in capsys.readouterr().out


def test_pull_as_json_and_quietly(server: Hostile, images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{server.host}/app:v1"
    assert main(["pull", "--json", name]) == 0
    (value,) = json.loads(capsys.readouterr().out)
    assert {layer["outcome"] for layer in value["layers"]} == {"fetched"}
    assert (value["name"], value["id"]) == (name, str(images.find(name).id))
    assert value.keys() == {"name", "digest", "manifest", "id", "platform", "size", "received", "layers"}
    assert main(["pull", "--json", name]) == 0
    (value,) = json.loads(capsys.readouterr().out)
    assert {layer["outcome"] for layer in value["layers"]} == {"already here"}
    assert main(["pull", "-q", name]) == 0
    assert capsys.readouterr() == (f"{name}\n", "")


def test_pull_verbosely_says_who_was_asked(
    server: Hostile, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hostile(images.blobs).running() as mirror:
        mirror.tricks.append(lambda request: Reply.status_only(404))
        toml = f'[[registry."{server.host}".mirror]]\nurl = "http://{mirror.host}"\nfallback = true\n'
        (tmp_path / "registries.toml").write_text(toml, encoding="utf-8")
        monkeypatch.setenv("UNIONFS_REGISTRIES", str(tmp_path / "registries.toml"))
        assert main(["pull", "--verbose", f"{server.host}/app:v1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    resolve = f"resolve {server.host}/app:v1"
    assert lines[0] == (
        f"{resolve}: http://{mirror.host}/app: http://{mirror.host}: HEAD: 404 Not Found; "
        "going on, because fallback = true"
    )
    assert lines[1] == f"{resolve}: {server.host}/app: good"


def test_progress_is_for_a_terminal(server: Hostile, images: Images) -> None:
    leader, follower = pty.openpty()
    try:
        command = [sys.executable, "-m", "unionfs", "pull", f"{server.host}/app:v1"]
        subprocess.run(command, stderr=follower, stdout=subprocess.DEVNULL, check=True, timeout=60)
        assert b"unpacked" in os.read(leader, 1 << 16)
    finally:
        os.close(leader)
        os.close(follower)


ERRORS = [
    (["pull", "Upper"], 2, "must be lower case"),
    (["pull", "--platform", "x/y/z/w", "debian"], 2, "not a platform"),
    (["push", "nothing"], 4, "no image 'nothing'"),
    (["push", "-a", "nothing"], 4, "no image of the repository"),
    (["push", "-a", "a", "b"], 2, "leave the second one out"),
    (["pull", "-a", "debian:12"], 2, "no tag and no digest"),
    (["pull", "127.0.0.1:1/app"], 1, "127.0.0.1:1: nobody answers: Connection refused; try: a mirror of it"),
    (["login", "-u", "me", "https://"], 2, "not a registry"),
    (["login", "registry.example"], 2, "no terminal to ask on"),
    (["login", "-u", "me", "registry.example"], 2, "--password-stdin"),
    (["login", "--get-login", "registry.example"], 4, "not logged in"),
]


@pytest.mark.parametrize(("arguments", "status", "said"), ERRORS, ids=[" ".join(row[0]) for row in ERRORS])
def test_an_error_is_one_line(
    arguments: list[str],
    status: int,
    said: str,
    images: Images,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("unionfs.oci.registry.failures.FIRST_DELAY", 0.001)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(arguments) == status
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_what_a_pull_could_not_finish_has_no_name(server: Hostile, images: Images, made: Made) -> None:
    digest = str(made.manifest.layers[2].digest)
    server.tricks.append(lambda request: Reply.status_only(404) if request.name == digest else None)
    assert main(["pull", f"{server.host}/app:v1"]) == 1
    assert images.all() == []


def test_skopeo_reads_what_push_sends(
    docker_registry: str, server: Hostile, images: Images, made: Made, tmp_path: Path
) -> None:
    assert main(["pull", f"{server.host}/app:v1"]) == 0
    assert main(["push", f"{server.host}/app:v1", f"{docker_registry}/ours:v1"]) == 0
    skopeo("copy", "--src-tls-verify=false", f"docker://{docker_registry}/ours:v1", f"oci:{tmp_path}/theirs:v1")
    for blob in [made.descriptor, *made.blobs]:
        theirs = tmp_path / "theirs/blobs/sha256" / blob.digest.hex
        assert theirs.read_bytes() == images.blobs.path(blob.digest).read_bytes()


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_pull_reads_what_skopeo_sends(
    docker_registry: str, server: Hostile, images: Images, lab: Lab, made: Made, form: str
) -> None:
    name = f"{docker_registry}/theirs:{form}"
    source = f"docker://{server.host}/app:v1"
    skopeo("copy", "--format", form, "--src-tls-verify=false", "--dest-tls-verify=false", source, f"docker://{name}")
    assert main(["pull", name]) == 0
    image = images.find(name)
    assert [layer.blob.digest for layer in image.layers] == [layer.digest for layer in made.manifest.layers]
    assert sorted(os.listdir(images.root / "layers" / image.layers[0].chain_id.hex)) == ["etc"]


def test_one_platform_is_pushed_without_the_index(
    docker_registry: str, images: Images, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    amd64, arm64 = parse_platform("linux/amd64"), parse_platform("linux/arm64")
    made = {
        each: make_image(lab.store, layer_of({"arch": str(each).encode()}), platform=each) for each in (amd64, arm64)
    }
    root = index_of(lab.store, made)
    with Hostile(lab.store).running() as server:
        server.tags["v1"] = root.digest
        name, copy = f"{server.host}/multi:v1", f"{docker_registry}/one:v1"
        assert main(["pull", "--platform", "linux/amd64", name]) == 0
        assert main(["push", "--platform", "linux/arm64", name, copy]) == 4
        assert "try: unionfs pull --platform linux/arm64" in capsys.readouterr().err
        assert main(["pull", "--platform", "linux/arm64", name]) == 0
    for platform, each in made.items():
        capsys.readouterr()
        assert main(["push", "--json", "--platform", str(platform), name, copy]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told.keys() == {"name", "digest", "id", "media_type", "size", "sent"}
        assert told["digest"] == str(each.descriptor.digest)
    assert main(["push", "--json", name, copy]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == str(root.digest)
    assert main(["push", "--platform", "s390x", name, copy]) == 3
    assert main(["push", "--platform", "s390x", str(images.all()[0].id), copy]) == 3


def test_all_tags_go_out_and_come_back(
    docker_registry: str, server: Hostile, images: Images, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", f"{server.host}/app:v1"]) == 0
    names = [f"{docker_registry}/many:{tag}" for tag in ("v1", "v2", "v3")]
    assert main(["tag", f"{server.host}/app:v1", *names]) == 0
    assert main(["push", "--all-tags", f"{docker_registry}/many"]) == 0
    assert main(["rmi", *names]) == 0
    capsys.readouterr()
    assert main(["pull", "-q", "--all-tags", f"{docker_registry}/many"]) == 0
    assert capsys.readouterr().out.split() == names


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[str]:
    """Run a registry that wants a name and a password."""
    (tmp_path / "htpasswd").write_text(HTPASSWD, encoding="ascii")
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}
    with registry(tmp_path / "closed", auth=auth) as host:
        yield host


def unionfs(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unionfs", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)


def test_login_and_logout(closed: str, tmp_path: Path) -> None:
    wrong = unionfs("login", "-u", USER, "--password-stdin", closed, given="wrong\n")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert DockerConfig.load().get(closed) is None, "what the registry does not take is not kept"

    good = unionfs("login", "-u", USER, "--password-stdin", f"http://{closed}/v2/", given=f"{PASSWORD}\n")
    assert (good.returncode, good.stdout, good.stderr) == (0, "Login Succeeded\n", "")
    assert DockerConfig.load().get(closed) == Credential(USER, PASSWORD)
    assert unionfs("login", "--get-login", closed).stdout == f"{USER}\n"

    assert unionfs("logout", closed).stdout == f"Removing login credentials for {closed}\n"
    assert unionfs("logout", closed).stdout == f"Not logged in to {closed}\n"
    assert DockerConfig.load().get(closed) is None


def test_skopeo_uses_our_login_and_we_use_skopeos(closed: str, server: Hostile, images: Images, tmp_path: Path) -> None:
    authfile = str(DockerConfig.load().path)
    target = f"docker://{closed}/app:v1"
    assert unionfs("login", "-u", USER, "--password-stdin", closed, given=PASSWORD).returncode == 0
    source = f"docker://{server.host}/app:v1"
    skopeo("copy", "--authfile", authfile, "--src-tls-verify=false", "--dest-tls-verify=false", source, target)
    assert unionfs("logout", closed).returncode == 0
    assert main(["pull", f"{closed}/app:v1"]) == 1
    skopeo("login", "--authfile", authfile, "--tls-verify=false", "-u", USER, "-p", PASSWORD, closed)
    assert main(["pull", f"{closed}/app:v1"]) == 0
