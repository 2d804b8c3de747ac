"""Digests name content, and references name images."""

import io

import pytest

from unionfs.errors import ImageError
from unionfs.oci.digest import Digest, DigestMismatch, chain_ids, copy_verified
from unionfs.oci.reference import Reference

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("text", ["", "sha256:", EMPTY.upper(), EMPTY + "0", EMPTY[:-1], "sha512:" + "0" * 128])
def test_only_well_formed_digests_can_be_made(text: str) -> None:
    with pytest.raises(ImageError, match="not a sha256 digest"):
        Digest(text)


def test_a_verified_copy_refuses_other_content() -> None:
    target = io.BytesIO()
    assert copy_verified(io.BytesIO(b"abc"), target, Digest.of(b"abc")) == 3
    with pytest.raises(DigestMismatch, match="was promised"):
        copy_verified(io.BytesIO(b"abd"), target, Digest.of(b"abc"))


def test_chain_ids_name_a_layer_on_its_parents() -> None:
    a, b = Digest.of(b"a"), Digest.of(b"b")
    assert chain_ids([a]) == (a,)
    assert chain_ids([a, b]) == (a, Digest.of(f"{a} {b}".encode()))
    assert chain_ids([b, a])[1] != chain_ids([a, b])[1]


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("index.docker.io/library/a", "docker.io/library/a:latest", "a:latest"),
        ("docker.io/a", "docker.io/library/a:latest", "a:latest"),
        ("ghcr.io/a/b/c:1.0", "ghcr.io/a/b/c:1.0", "ghcr.io/a/b/c:1.0"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        (f"debian@{EMPTY}", f"docker.io/library/debian@{EMPTY}", f"debian@{EMPTY}"),
        (f"debian:12@{EMPTY}", f"docker.io/library/debian:12@{EMPTY}", f"debian:12@{EMPTY}"),
    ],
)
def test_short_names_are_completed_as_docker_does(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert (str(reference), reference.familiar) == (full, familiar)
    assert Reference.parse(full) == reference


@pytest.mark.parametrize("text", ["", ":tag", "UPPER", "a//b", "a:b:c", "../x", "a/../b", "-a", "a@sha256:12", "a b"])
def test_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(ImageError):
        Reference.parse(text)
