"""What manifests say is checked once, at the border, and refused by name."""

import json
from typing import Any

import pytest

from unionfs.errors import ImageError
from unionfs.oci import model
from unionfs.oci.digest import Digest
from unionfs.oci.platforms import Platform, choose, host_platform, parse_platform

NAME = str(Digest.of(b""))
LAYER = {"mediaType": model.OCI_LAYER_GZIP, "digest": NAME, "size": 3}
CONFIG = {"mediaType": model.OCI_CONFIG, "digest": NAME, "size": 0}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]}


def raw(document: object) -> bytes:
    return json.dumps(document).encode()


def test_a_manifest_is_parsed_with_what_it_does_not_say() -> None:
    manifest = model.parse_manifest(raw(MANIFEST))
    assert manifest.layers[0] == model.Descriptor(media_type=model.OCI_LAYER_GZIP, digest=Digest(NAME), size=3)
    assert manifest.media_type == model.OCI_MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [LAYER | {"mediaType": "text/html"}]}, "unknown media type text/html"),
        ({"config": CONFIG | {"mediaType": "application/vnd.cncf.helm"}}, "not an image: .*helm"),
        ({"layers": [LAYER | {"size": -1}]}, "layers.*size"),
        ({"layers": [LAYER | {"digest": "sha256:xx"}]}, "not a sha256 digest"),
        ({"layers": [LAYER | {"digest": 7}]}, "Expected a digest, got 7 - at .*layers"),
        ({"layers": [LAYER] * 1001}, "length <= 1000"),
        ({"config": None}, "config"),
    ],
)
def test_a_wrong_manifest_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        model.parse_manifest(raw(MANIFEST | change))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"schemaVersion": "2"}'])
def test_what_is_not_json_of_that_shape_is_an_image_error(text: bytes) -> None:
    with pytest.raises(ImageError):
        model.parse_manifest(text)
    with pytest.raises(ImageError):
        model.media_type_of(text)


@pytest.mark.parametrize(
    ("document", "said", "kind"),
    [
        ({"schemaVersion": 2, "mediaType": model.DOCKER_MANIFEST}, None, model.DOCKER_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, None, model.OCI_INDEX),
        (MANIFEST, None, model.OCI_MANIFEST),
        (MANIFEST, model.DOCKER_MANIFEST, model.DOCKER_MANIFEST),
        ({"mediaType": model.OCI_INDEX}, model.OCI_MANIFEST, model.OCI_INDEX),
    ],
)
def test_a_document_says_what_it_is(document: object, said: str | None, kind: str) -> None:
    assert model.media_type_of(raw(document), said) == kind


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, "schema 1"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, "schema 1"),
        ({"mediaType": "application/x-strange"}, "application/x-strange"),
        ({}, "none given"),
    ],
)
def test_unknown_documents_are_refused_by_name(document: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        model.media_type_of(raw(document))


def test_instructions_belong_to_the_layers_they_made() -> None:
    config = model.parse_config(
        raw(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": None, "Cmd": ["sh"]},
                "rootfs": {"type": "layers", "diff_ids": [NAME, NAME, NAME]},
                "history": [
                    {"created_by": "ADD"},
                    {"created_by": "ENV", "empty_layer": True},
                    {"created_by": "RUN"},
                ],
            }
        )
    )
    made = [entry.created_by if entry else None for entry in config.instructions()]
    assert made == ["ADD", "RUN", None]


def test_encoding_is_canonical() -> None:
    manifest = model.parse_manifest(raw(MANIFEST))
    assert model.encode(manifest) == model.encode(model.parse_manifest(model.encode(manifest)))


def descriptor(platform: str | None) -> model.Descriptor:
    wanted = parse_platform(platform) if platform else None
    return model.Descriptor(media_type=model.OCI_MANIFEST, digest=Digest(NAME), size=1, platform=wanted)


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        (["linux/arm64/v8", "linux/amd64"], "linux/amd64", "linux/amd64"),
        (["linux/arm64/v8"], "linux/arm64", "linux/arm64/v8"),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", "linux/arm/v7"),
        (["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", "linux/arm/v6"),
        (["linux/arm/v6"], "linux/arm", "linux/arm/v6"),
        ([None], "linux/s390x", None),
    ],
)
def test_the_best_platform_is_chosen(offered: list[str | None], wanted: str, chosen: str | None) -> None:
    found = choose([descriptor(text) for text in offered], parse_platform(wanted))
    assert str(found.platform) == str(chosen)


def test_no_platform_that_runs_is_refused_with_what_there_is() -> None:
    with pytest.raises(ImageError, match="no image for linux/s390x; this one has linux/amd64"):
        choose([descriptor("linux/amd64"), descriptor("windows/s390x")], parse_platform("linux/s390x"))


def test_attestations_are_never_chosen() -> None:
    offered = [descriptor("unknown/unknown"), descriptor("linux/" + host_platform().architecture)]
    assert choose(offered, host_platform()) == offered[1]
    assert isinstance(offered[0].platform, Platform)
