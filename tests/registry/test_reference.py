"""What a user may type for an image, and what it means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.errors import ImageError
from unionfs.oci.reference import Reference, canonical

HEX = "0123456789abcdef" * 4
DIGEST = f"@sha256:{HEX}"

MEANINGS = {
    "debian": "docker.io/library/debian:latest",
    "debian:12": "docker.io/library/debian:12",
    "user/app": "docker.io/user/app:latest",
    "docker.io/debian": "docker.io/library/debian:latest",
    "index.docker.io/debian": "docker.io/library/debian:latest",
    "registry-1.docker.io/user/app": "docker.io/user/app:latest",
    "localhost/app": "localhost/app:latest",
    "localhost:5000/app:v1": "localhost:5000/app:v1",
    "127.0.0.1:5000/a/b/c": "127.0.0.1:5000/a/b/c:latest",
    "[::1]:5000/app": "[::1]:5000/app:latest",
    "quay.io/a/b:1.0": "quay.io/a/b:1.0",
    "Host/app": "Host/app:latest",
    "app_name__x/y-z--w.v": "docker.io/app_name__x/y-z--w.v:latest",
    f"debian{DIGEST}": f"docker.io/library/debian{DIGEST}",
    f"debian:12{DIGEST}": f"docker.io/library/debian:12{DIGEST}",
    f"localhost:5000/a{DIGEST}": f"localhost:5000/a{DIGEST}",
    f"{HEX}/app": f"docker.io/{HEX}/app:latest",
}

REFUSED = {
    "": "not an image reference",
    ":12": "not an image reference",
    "Debian": "lower case",
    "quay.io/App": "lower case",
    "a//b": "not a repository",
    "/a": "not a repository",
    "a/": "not a repository",
    "-a": "not a repository",
    "a..b/c": "not a re",
    "a___b": "not a repository",
    "a b": "not a repository",
    "../etc/passwd": "not a re",
    "https://quay.io/app": "not a re",
    "user@host/app": "sha256",
    "debian:": "not a tag",
    "debian:-x": "not a tag",
    "debian:" + "x" * 129: "not a tag",
    "debian:a:b": "not a re",
    "debian@": "sha256",
    "debian@sha256:abc": "sha256",
    f"debian@md5:{HEX}": "sha256",
    HEX: "image id",
    "quay.io:port/app": "not a registry",
    "a" * 256: "longer than 255",
}


@pytest.mark.parametrize(("typed", "meant"), MEANINGS.items())
def test_a_reference_is_completed_as_docker_does(typed: str, meant: str) -> None:
    assert str(Reference.parse(typed)) == meant


@pytest.mark.parametrize("typed", MEANINGS)
def test_the_full_and_the_familiar_text_mean_the_same(typed: str) -> None:
    reference = Reference.parse(typed)
    assert Reference.parse(str(reference)) == Reference.parse(reference.familiar) == reference


@pytest.mark.parametrize(("typed", "why"), REFUSED.items())
def test_a_malformed_reference_is_refused_with_the_part_that_is_wrong(typed: str, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        Reference.parse(typed)


@pytest.mark.parametrize("repository", ["localhost/x", "a.b/c", "library/a/b", f"library/{HEX}"])
def test_a_short_form_that_would_mean_another_image_is_not_used(repository: str) -> None:
    reference = Reference("docker.io", repository)
    assert Reference.parse(reference.familiar) == reference


def test_the_digest_decides_what_is_fetched() -> None:
    assert Reference.parse(f"debian:12{DIGEST}").wanted == DIGEST[1:]
    assert Reference.parse("debian:12").wanted == "12"


def test_docker_hub_has_one_name() -> None:
    assert {canonical(name) for name in ("docker.io", "index.docker.io", "registry-1.docker.io")} == {"docker.io"}


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_a_clear_refusal(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ImageError:
        return
    assert Reference.parse(str(reference)) == reference
