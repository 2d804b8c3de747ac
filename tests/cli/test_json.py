"""What ``--json`` prints: scripts rely on its keys."""

from pathlib import Path
from typing import Final

import pytest

from tests.cli.commands import Command
from tests.oci.archives import archive_of, file
from tests.oci.making import image_of
from unionfs.cli.main import COMMANDS
from unionfs.oci.containers import Containers
from unionfs.oci.images import Images
from unionfs.oci.snapshots import Snapshots

ENTRY: Final = {
    "Path", "Type", "Mode", "Uid", "Gid", "Size", "ModTime", "Target", "Device", "Xattrs", "Opaque", "Digest", "Layer",
}  # fmt: skip
IMAGE: Final = {"Id", "RepoTags", "RepoDigests", "Digest", "Created", "Size", "Layers", "Dangling", "Mounted"}

LISTINGS: Final = {
    "images": IMAGE,
    "inspect app:1": {
        "Id", "RepoTags", "RepoDigests", "Parent", "Comment", "Created", "Author", "Config", "Architecture", "Variant",
        "Os", "Size", "GraphDriver", "RootFS", "Metadata", "Digest", "MediaType", "Annotations", "LayersData",
    },
    "history app:1": {"Id", "Created", "CreatedBy", "Size", "Comment", "Layer", "EmptyLayer"},
    "df": {"Root", "Rows", "Layers", "Containers", "Total", "OnDisk"},
    "df -> Rows": {"Type", "TotalCount", "Active", "Size", "Reclaimable"},
    "df -> Layers": {"ChainId", "Size", "Files", "Images"},
    "df -> Containers": {"Name", "Image", "Created", "Mountpoint", "Size"},
    "check": {"Kind", "Name", "What", "Repaired", "Harmless"},
    "prune --dry-run": {"Images", "Garbage", "SpaceReclaimed", "DryRun"},
    "prune --dry-run -> Garbage": {"Kind", "Name", "Size"},
    "ls app:1:/etc": ENTRY,
    "find app:1:/etc": ENTRY,
    "stat app:1:/etc": ENTRY,
    "which app:1:/etc/passwd": {"Path", "Layers"},
    "which app:1:/etc/passwd -> Layers": {
        "Layer", "Id", "Verdict", "HiddenBy", "Why", "At", "Entry", "CreatedBy", "Created",
    },
    "diff base:1 app:1": {"added", "changed", "deleted"},
    "diff base:1 app:1 -> added": {"Path", "Respects", "Old", "New"},
    "tree app:1": ENTRY | {"TreeSize", "Children"},
    "tree --depth 0 app:1:/etc": ENTRY | {"TreeSize"},
    "tree app:1:/etc/passwd": ENTRY,
    "du app:1 base:1": {"Images", "Duplicates", "Checks"},
    "du app:1 -> Images": {"Image", "Total", "Needed", "Wasted", "Touched", "Efficiency", "Layers", "Offenders"},
    "du app:1 copy:1 -> Duplicates": {"Digest", "Size", "Wasted", "Places"},
    "du app:1 -> Checks": {"Image", "Check", "Passed"},
    "fsck {tmp}/upper": {"Kind", "Path", "What", "Repair", "Repaired"},
    "doctor": {"name", "verdict", "what", "cure"},
    "load -i {tmp}/saved.tar": IMAGE,
    "tag app:1 app:2": IMAGE,
    "import {tmp}/root.tar flat:1": IMAGE,
    "commit work changed:1": IMAGE,
    "save -o {tmp}/app.tar app:1": {"Output", "Format", "Images"},
    "save -o {tmp}/app.tar app:1 -> Images": {"Id", "Names"},
    "export -o {tmp}/app.tar work": {"Output", "Id", "Container"},
    "cp app:1:/etc {tmp}/out": {"Destination", "Files", "Size", "LeftOut"},
    "convert --to aufs {tmp}/upper {tmp}/other": {"Target", "Dialect", "Entries", "Notes"},
    "rmi base:1": {"Untagged", "Deleted"},
    "rm work": {"Removed"},
}  # fmt: skip
"""What each command prints: the keys of its objects, or of those under a key."""

WITHOUT: Final = {
    "mount": "prints its path alone; without arguments it lists as mounts does, which needs a mount to show keys",
    "mounts": "tests/cli/test_lifecycle.py", "restart": "needs a mount, too",
    "pull": "tests/registry/test_commands.py", "push": "the same", "login": "the same", "logout": "the same",
    "umount": "tells nothing", "cat": "prints a file", "report": "prints a page", "demo": "is for people",
}  # fmt: skip
"""Commands that are not in the table, and why."""


def test_every_command_is_in_the_table() -> None:
    assert {listing.split()[0] for listing in LISTINGS} | WITHOUT.keys() == COMMANDS.keys()


@pytest.fixture
def given(unionfs: Command, images: Images, app: str, tmp_path: Path) -> None:
    """Make what the commands of the table name: a container, garbage, archives, a layer with something wrong."""
    image = images.find(app)
    root = Snapshots.of(images).merged(Snapshots.of(images).ensure(image.layers)).root.entry
    Containers(images).ensure("work", image, root)
    image_of(images, [archive_of(file("copy", b"library" * 300))], "copy:1")
    images.blobs.put(b"garbage")
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/.wh.gone").touch()
    assert unionfs("save", "-o", tmp_path / "saved.tar", "app:1").status == 0
    assert unionfs("export", "-o", tmp_path / "root.tar", "app:1").status == 0


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize("listing", LISTINGS)
def test_the_keys_are_stable(unionfs: Command, tmp_path: Path, listing: str) -> None:
    command, _, key = listing.format(tmp=tmp_path).partition(" -> ")
    told = unionfs(*command.split(), "--json")
    found = told.json()[key] if key else told.json()
    for value in found if isinstance(found, list) else [found]:
        assert value.keys() == LISTINGS[listing]
    assert found
    assert told.errors == ""


@pytest.mark.parametrize("command", ["save app:1", "export app:1", "cp app:1:/etc -"])
def test_json_and_an_archive_are_not_mixed(unionfs: Command, app: str, command: str) -> None:
    told = unionfs(*command.split(), "--json")
    assert (told, told.status, told.errors.count("\n")) == ("", 2, 1)
    assert "try: " in told.errors
