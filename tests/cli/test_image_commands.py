"""The commands about images: docker's words and keys, stable JSON, documented statuses."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import Command
from tests.oci.archives import archive_of, directory, file
from tests.oci.conftest import BASE, CHANGE
from tests.oci.making import image_of
from unionfs.oci.containers import Containers
from unionfs.oci.images import Images
from unionfs.oci.model import OCI_INDEX, Descriptor
from unionfs.oci.reference import Reference
from unionfs.oci.snapshots import Snapshots


def test_a_store_without_images_shows_the_header(unionfs: Command) -> None:
    assert unionfs("images").split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert (unionfs("images", "-q"), unionfs("images", "--json").json()) == ("", [])


def test_images(unionfs: Command, app: str) -> None:
    lines = unionfs("images").splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert lines[1].split()[:3] == ["app", "1", app[7:19]]
    assert unionfs("images", "-q", "--no-trunc").splitlines()[0] == app
    (row,) = unionfs("images", "--json", "app").json()
    assert row | {"Size": 0, "Digest": "", "RepoDigests": []} == {
        "Id": app, "RepoTags": ["app:1"], "RepoDigests": [], "Digest": "", "Created": "2024-05-06T07:08:09Z",
        "Size": 0, "Layers": 2, "Dangling": False, "Mounted": False,
    }  # fmt: skip
    assert unionfs("images", "app:2", "--json").json() == []


def test_nameless_images_are_listed_as_docker_does(unionfs: Command, images: Images, app: str) -> None:
    image_of(images, [CHANGE], "app:1")  # takes the name away
    lines = [line.split()[:3] for line in unionfs("images").splitlines()[1:]]
    assert ["<none>", "<none>", app[7:19]] in lines
    assert unionfs("images", "-a") == unionfs("images")
    assert [row["Dangling"] for row in unionfs("images", "--json").json()].count(True) == 1


def test_tag_and_rmi(unionfs: Command, app: str) -> None:
    assert unionfs("tag", "app:1", "quay.io/x/y:z").status == 0
    assert unionfs("rmi", "quay.io/x/y:z") == "Untagged: quay.io/x/y:z\n"
    assert unionfs("rmi", "--json", app[7:20]).json() == {"Untagged": ["app:1"], "Deleted": [app]}
    told = unionfs("rmi", "app:1")
    assert (told.status, "no image 'app:1'" in told.errors) == (4, True)
    assert unionfs("rmi", "-f", "app:1").status == 0
    assert unionfs("tag", "base:1", "Upper").status == 2
    assert unionfs("tag", "base:1", f"x@{app}").status == 2


def test_an_image_with_several_names_is_not_removed_by_its_id(unionfs: Command, app: str) -> None:
    unionfs("tag", "app:1", "app:2")
    told = unionfs("rmi", app)
    assert (told.status, "has 2 names" in told.errors) == (3, True)
    assert unionfs("rmi", "-f", app).count("Untagged") == 2


def test_prune(unionfs: Command, images: Images, app: str) -> None:
    image_of(images, [CHANGE], "app:1")
    assert unionfs("prune", "--dry-run", "--json").json()["Images"] == [app]
    assert len(images.all()) == 3
    assert app[7:19] in unionfs("prune")
    assert len(images.all()) == 2
    assert unionfs("prune", "--all", "-f").status == 0
    assert (images.all(), list(images.blobs)) == ([], [])


def test_inspect_and_history(unionfs: Command, app: str) -> None:
    (value,) = unionfs("inspect", "app:1").json()
    assert {
        "Id", "RepoTags", "RepoDigests", "Parent", "Comment", "Created", "Author", "Config", "Architecture", "Variant",
        "Os", "Size", "GraphDriver", "RootFS", "Metadata",
    } <= value.keys()  # fmt: skip
    assert value["Config"] == {"Cmd": ["/bin/sh"], "Env": ["A=1"], "Labels": {"l": "v"}}
    assert len(value["RootFS"]["Layers"]) == len(value["LayersData"]) == 2
    assert json.loads(unionfs("inspect", "--raw", "config", "app:1"))["os"] == "linux"
    steps = unionfs("history", "--json", "app:1").json()
    assert [step["CreatedBy"] for step in steps] == ["CMD sh", "step 1", "step 0"]
    assert [step["EmptyLayer"] for step in steps] == [True, False, False]
    assert unionfs("history", "app:1").splitlines()[0].split()[:2] == ["IMAGE", "CREATED"]
    assert unionfs("inspect", "nothing").status == 4


def test_df_and_check(unionfs: Command, images: Images, app: str) -> None:
    Snapshots.of(images).ensure(images.find("app:1").layers)
    value = unionfs("df", "--json").json()
    assert value["Total"] == value["OnDisk"] == sum(row["Size"] for row in value["Rows"])
    assert [layer["Images"] for layer in value["Layers"]] == [2, 1]
    assert unionfs("df", "-v").splitlines()[0].split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert unionfs("check") == "the store is sound\n"
    layer = images.find("base:1").layers[0]
    (images.root / "layers" / layer.chain_id.hex / "etc/passwd").write_bytes(b"root::0:0\n")
    blob = images.blobs.path(images.find("app:1").layers[1].blob.digest)
    blob.chmod(0o600)
    blob.write_bytes(b"rotten")
    found = unionfs("check", "--json")
    assert (found.status, sorted(problem["Kind"] for problem in found.json())) == (1, ["blob", "layer"])
    assert unionfs("check", "--repair").status == 0
    assert unionfs("check").status == 1  # the blob is gone, and only a pull brings it back


def test_df_shows_containers(unionfs: Command, images: Images, app: str) -> None:
    image = images.find("app:1")
    root = Snapshots.of(images).merged(Snapshots.of(images).ensure(image.layers)).root.entry
    container = Containers(images).ensure("work", image, root)
    lock = Containers(images).mount(image, container, Path("/somewhere"))
    assert unionfs("df", "-v").splitlines()[-1].split()[:3] == ["work", app[7:19], "/somewhere"]
    lock.release()
    assert unionfs("df", "--json").json()["Containers"][0]["Mountpoint"] is None


def test_a_container_is_removed_and_its_image_stays(unionfs: Command, images: Images, app: str) -> None:
    image = images.find("app:1")
    root = Snapshots.of(images).merged(Snapshots.of(images).ensure(image.layers)).root.entry
    containers = Containers(images)
    used, unused = (containers.ensure(name, image, root) for name in ("used", "unused"))
    lock = containers.mount(image, used, Path("/somewhere"))
    told = unionfs("rm", "used", "unused", "nothing")
    assert (told, told.status) == ("unused\n", 4)
    assert "is mounted on /somewhere" in told.errors
    assert "no container 'nothing'" in told.errors
    assert (used.directory.exists(), unused.directory.exists()) == (True, False)
    lock.release()
    assert unionfs("rm", "-f", "used", "nothing").status == 0
    assert (containers.all(), os.listdir(images.root / "staging")) == ([], [])
    assert images.find("app:1") == image


LOSSES: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: os.truncate(path, 0),
    "cut short": lambda path: os.truncate(path, 5000),
    "overwritten": lambda path: path.write_bytes(b"not a database" * 1000),
}


@pytest.mark.parametrize("how", LOSSES)
@pytest.mark.parametrize("has_index", [True, False], ids=["index", "no index"])
def test_a_lost_database_is_made_anew_of_what_stands_on_the_disk(
    unionfs: Command, images: Images, app: str, how: str, has_index: bool
) -> None:
    snapshots = Snapshots.of(images)
    image = images.find("app:1")
    images.tag(image, Reference.parse("app:2"))
    index = images.blobs.put(b"an index of a registry")
    images.add(image.descriptor, Reference.parse("app:3"), Descriptor(media_type=OCI_INDEX, digest=index, size=22))
    root = snapshots.merged(snapshots.ensure(image.layers)).root.entry
    (Containers(images).ensure("work", image, root).upper / "new").write_bytes(b"the user's")
    mounted = Containers(images).mount(image, Containers(images).find("work"), Path("/somewhere"))
    before = unionfs("images", "--json"), unionfs("df", "--json").json()["Layers"]
    LOSSES[how](images.database.path)
    if not has_index:
        (images.root / "index.json").unlink()
    for command in (["images"], ["prune", "--all", "-f"], ["rmi", "-f", "app:1"]):
        assert "check --repair" in unionfs(*command).errors
    assert unionfs("check").status == 1
    assert unionfs("check", "--repair").status == 0
    assert unionfs("check").startswith("the store is sound" if has_index else "note: garbage blob")
    assert unionfs("prune", "-f").status == 0
    if has_index:
        assert (unionfs("images", "--json"), unionfs("df", "--json").json()["Layers"]) == before
    else:
        assert [row["RepoTags"] for row in unionfs("images", "--json").json()].count([]) == 0
        assert unionfs("images", "-q").split().count(app[7:19]) == 1
    assert "is mounted on /somewhere" in unionfs("rmi", "-f", app[7:]).errors
    mounted.release()
    assert unionfs("prune", "--all", "-f").status == 0
    container = Containers(images).ensure("work", images.find(app[7:]), root)
    assert (container.upper / "new").read_bytes() == b"the user's"


@pytest.mark.parametrize("document", ["manifest", "config"])
def test_an_image_that_cannot_be_read_stops_the_others_only_until_a_repair(
    unionfs: Command, images: Images, app: str, document: str
) -> None:
    image = images.find("app:1")
    root = Snapshots.of(images).merged(Snapshots.of(images).ensure(image.layers)).root.entry
    changed = Containers(images).ensure("work", image, root).upper / "new"
    changed.write_bytes(b"the user's")
    lock = Containers(images).mount(image, None, Path("/somewhere"))
    images.blobs.delete(image.descriptor.digest if document == "manifest" else image.id)
    assert "check --repair" in unionfs("images").errors
    assert unionfs("check", "--repair").status == 1
    assert "check --repair" in unionfs("images").errors, "a mount needs its layers"
    lock.release()
    assert "repaired: image" in unionfs("check", "--repair")
    assert [row["RepoTags"] for row in unionfs("images", "--json").json()] == [["base:1"]]
    assert unionfs("prune", "-f").status == 0
    assert changed.read_bytes() == b"the user's"
    image_of(images, [BASE, CHANGE], "app:1")
    assert unionfs("check", "--repair").status == 0
    assert Containers(images).find("work").image == image.descriptor.digest


def test_a_container_whose_image_is_lost_is_kept(unionfs: Command, images: Images, app: str) -> None:
    image = images.find("app:1")
    root = Snapshots.of(images).merged(Snapshots.of(images).ensure(image.layers)).root.entry
    changed = Containers(images).ensure("work", image, root).upper / "new"
    changed.write_bytes(b"the user's")
    images.database.path.unlink()
    config = images.blobs.get(image.id)
    images.blobs.delete(image.id)
    told = unionfs("check", "--repair")
    assert told.status == 1
    assert "PROBLEM: image app:1: blob" in told
    assert f"is kept, in {images.root}/containers/work" in told
    unionfs("prune", "--all", "-f")
    assert changed.read_bytes() == b"the user's"
    image_of(images, [BASE, CHANGE], "app:1")
    assert images.blobs.get(image.id) == config
    assert "note: container work: the database does not know it" in unionfs("check")
    assert unionfs("check", "--repair").status == 0
    assert Containers(images).find("work").image == image.descriptor.digest


def test_save_load_import_export_commit(unionfs: Command, images: Images, app: str, tmp_path: Path) -> None:
    assert unionfs("save", "--format", "oci-archive", "-o", tmp_path / "a.tar", "app:1", "base:1").status == 0
    unionfs("rmi", "-f", "app:1", "base:1")
    assert unionfs("load", "-i", tmp_path / "a.tar").splitlines() == ["Loaded image: app:1", "Loaded image: base:1"]
    unionfs("tag", "app:1", "other:1")
    assert unionfs("load", "-i", tmp_path / "a.tar").splitlines() == ["Loaded image: app:1", "Loaded image: base:1"]
    assert unionfs("load", "-q", "-i", tmp_path / "a.tar").splitlines()[0] == app[7:19]
    assert unionfs("export", "-o", tmp_path / "root.tar", "app:1").status == 0
    made = unionfs("import", "-c", 'CMD ["x"]', "-m", "hi", tmp_path / "root.tar", "flat:1")
    assert unionfs("inspect", "flat:1").json()[0]["Config"] == {"Cmd": ["x"]}
    assert images.find(made.strip()).names
    snapshots = Snapshots.of(images)
    image = images.find("flat:1")
    root = snapshots.merged(snapshots.ensure(image.layers)).root.entry
    (Containers(images).ensure("work", image, root).upper / "new").write_bytes(b"x")
    unionfs("commit", "-c", "ENV B=2", "work", "changed:1")
    assert unionfs("inspect", "changed:1").json()[0]["Config"] == {"Cmd": ["x"], "Env": ["B=2"]}
    assert unionfs("ls", "changed:1").splitlines()[-1] == "var"
    assert "new" in unionfs("ls", "changed:1").splitlines()
    assert unionfs("save", "--format", "oci-dir", "app:1").status == 2
    assert unionfs("import", "-c", "RUN x", tmp_path / "root.tar").status == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.fixture(params=["stored", "unpacked", "docker-archive", "oci-archive", "oci-dir"])
def place(request: pytest.FixtureRequest, unionfs: Command, images: Images, app: str, tmp_path: Path) -> str:
    """The image app:1, wherever it may lie."""
    if request.param == "unpacked":
        Snapshots.of(images).ensure(images.find("app:1").layers)
    if request.param in {"stored", "unpacked"}:
        return "app:1"
    target = tmp_path / ("app.tar" if request.param.endswith("archive") else "app")
    assert unionfs("save", "--format", request.param, "-o", target, "app:1").status == 0
    unionfs("prune", "--all", "-f")
    return str(target)


class TestInspection:
    """The same answers for an image of the store, an archive, and a directory that nobody imported."""

    def test_ls(self, unionfs: Command, place: str) -> None:
        assert unionfs("ls", place).split() == ["bin", "etc", "lib", "usr", "var"]
        assert unionfs("ls", f"{place}:/lib/").split() == ["libc"]
        assert unionfs("ls", "--layer", "1", f"{place}:/var").split() == ["new"]
        assert unionfs("ls", "-l", f"{place}:/bin").splitlines()[1].startswith("-rwxr-xr-x")
        rows = unionfs("ls", "-R", "--json", place).json()
        assert {row["Path"]: row["Layer"] for row in rows}["/etc/passwd"] == 1
        assert unionfs("ls", f"{place}:/etc/hosts").status == 4

    def test_cat(self, unionfs: Command, place: str) -> None:
        assert unionfs("cat", f"{place}:/etc/passwd") == "root:x:0:0\nuser:x:1:1\n"
        assert unionfs("cat", "--layer", "0", f"{place}:/etc/passwd") == "root:x:0:0\n"
        assert unionfs("cat", "--layer", "0", f"{place}:/etc/hosts") == "127.0.0.1 localhost\n"
        assert unionfs("cat", f"{place}:/lib/libc", f"{place}:/bin/dash") == "library" * 300 + "#!shell" * 200
        assert unionfs("cat", f"{place}:/etc").status == 4
        assert unionfs("cat", "--layer", "7", f"{place}:/etc/passwd").status == 2

    def test_stat_and_find(self, unionfs: Command, place: str) -> None:
        (row,) = unionfs("stat", "--json", f"{place}:/lib").json()
        assert (row["Type"], row["Target"], row["Layer"]) == ("symlink", "usr/lib", 0)
        assert "  Type: dir" in unionfs("stat", "-L", f"{place}:/lib")
        assert unionfs("find", place, "-name", "*ss*", "-type", "f").split() == ["/etc/passwd"]
        assert unionfs("find", place, "-size", "+1k", "-type", "f").split() == ["/bin/dash", "/bin/sh", "/usr/lib/libc"]
        assert unionfs("find", place, "--layer", "-1", "-type", "f").split() == ["/etc/passwd", "/var/new"]
        assert unionfs("find", place, "-size", "x").status == 2

    def test_which(self, unionfs: Command, place: str) -> None:
        value = unionfs("which", "--json", f"{place}:/etc/passwd").json()
        assert [(row["Layer"], row["Verdict"], row["HiddenBy"], row["CreatedBy"]) for row in value["Layers"]] == [
            (1, "shown", None, "step 1"),
            (0, "hidden", 1, "step 0"),
        ]
        gone = unionfs("which", f"{place}:/var/log")
        assert (gone.status, "opaque" in gone) == (4, True)
        assert unionfs("which", f"{place}:/lib/libc").splitlines()[0] == "/usr/lib/libc"
        assert "no layer has it" in unionfs("which", f"{place}:/nothing").errors

    def test_cp(self, unionfs: Command, place: str, tmp_path: Path) -> None:
        assert unionfs("cp", f"{place}:/", tmp_path / "out").status == 0
        assert (tmp_path / "out/usr/lib/libc").read_bytes() == b"library" * 300
        assert os.readlink(tmp_path / "out/lib") == "usr/lib"
        assert not (tmp_path / "out/etc/hosts").exists()
        unionfs("cp", f"{place}:/etc/passwd", tmp_path)
        assert (tmp_path / "passwd").read_bytes() == b"root:x:0:0\nuser:x:1:1\n"
        with tarfile.open(fileobj=io.BytesIO(unionfs("cp", f"{place}:/etc", "-").encode("latin-1"))) as tar:
            assert tar.getnames() == ["etc", "etc/passwd"]

    def test_tree_and_du(self, unionfs: Command, place: str) -> None:
        drawn = unionfs("tree", "--layer", "1", place)
        assert "hosts  (whiteout)" in drawn
        assert "var/  3 B  (opaque)" in drawn
        assert "whiteout" not in unionfs("tree", place)
        value = unionfs("tree", "--json", "--depth", "1", place).json()
        assert [child["Path"] for child in value["Children"]] == ["/bin", "/etc", "/lib", "/usr", "/var"]
        account = unionfs("du", "--json", place).json()["Images"][0]
        assert account["Wasted"] == len(b"root:x:0:0\n127.0.0.1 localhost\nold")
        assert account["Efficiency"] == account["Needed"] / account["Total"]
        assert unionfs("du", "--ci", place).status == 0
        assert unionfs("du", "--ci", "--max-wasted", "10", place).status == 1
        assert unionfs("du", "--ci", "--max-wasted-part", "0.5", "--min-efficiency", "0.999", place).status == 1


def test_diff(unionfs: Command, app: str, tmp_path: Path) -> None:
    told = unionfs("diff", "--ignore", "mtime", "base:1", "app:1")
    assert told.status == 1
    assert [(line.split()[0], line.split()[-1]) for line in told.splitlines()[1:]] == [
        ("D", "/etc/hosts"), ("C", "/etc/passwd"), ("D", "/var/log"), ("A", "/var/new"),
    ]  # fmt: skip
    assert "+user:x:1:1\n" in unionfs("diff", "--content", "base:1", "app:1")
    value = unionfs("diff", "--json", "base:1", "app:1").json()
    assert [change["Respects"] for change in value["changed"]] == [["content"]]
    assert unionfs("diff", "base:1", "app:1#0").status == 0
    (tmp_path / "plain/etc").mkdir(parents=True)
    (tmp_path / "plain/etc/passwd").write_bytes(b"root:x:0:0\nuser:x:1:1\n")
    equal = unionfs("diff", "--ignore", "mtime,owner,mode", f"{tmp_path}/plain:/etc", "app:1:/etc")
    assert (equal.status, equal) == (0, "")
    assert unionfs("diff", "base:1", "nothing").status == 2
    assert unionfs("diff", "--ignore", "colour", "base:1", "app:1").status == 2
    assert unionfs("diff", "base:1").status == 2


def test_diff_of_a_container(unionfs: Command, images: Images, app: str) -> None:
    image = images.find("app:1")
    snapshots = Snapshots.of(images)
    root = snapshots.merged(snapshots.ensure(image.layers)).root.entry
    (Containers(images).ensure("work", image, root).upper / "added").write_bytes(b"x")
    assert unionfs("diff", "work").splitlines()[-1].split() == ["A", "/added"]


@pytest.mark.root
def test_fsck_and_convert(unionfs: Command, tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir()
    upper.mkdir()
    os.mknod(upper / "needless", 0o20000, 0)
    (tmp_path / "work/work/#7").mkdir(parents=True)
    told = unionfs("fsck", "--lower", lower, "--work", tmp_path / "work", upper)
    assert (told.status, len(told.splitlines())) == (4, 2)
    fixed = unionfs("fsck", "--repair", "--json", "--lower", lower, "--work", tmp_path / "work", upper)
    assert (fixed.status, [row["Repaired"] for row in fixed.json()]) == (1, [True, True])
    assert unionfs("fsck", "--lower", lower, "--work", tmp_path / "work", upper).status == 0
    blind = unionfs("fsck", upper)
    assert (blind.status, blind.splitlines(), "--lower" in blind.errors) == (0, [], True)
    os.mknod(upper / "gone", 0o20000, 0)
    assert unionfs("convert", "--to", "aufs", upper, tmp_path / "aufs").status == 0
    assert os.listdir(tmp_path / "aufs") == [".wh.gone"]


@pytest.mark.root
def test_fsck_of_a_work_directory_and_its_index(unionfs: Command, tmp_path: Path) -> None:
    upper, work, index = tmp_path / "upper", tmp_path / "work", tmp_path / "work/index"
    for path in (upper, work / "work/incompat/volatile", work / "work/#1/deep", index / "00fb"):
        path.mkdir(parents=True)
    for name, mark in {"#2": "U-1", "orphan": "U-1", "lower": "U+1", "named": "U-1", "unknown": "L-1"}.items():
        (index / name).write_bytes(b"content")
        os.setxattr(index / name, "trusted.overlay.nlink", mark.encode())
    os.link(index / "named", upper / "named")
    left = sorted(["00fb", "lower", "named", "unknown"])
    told = unionfs("fsck", "--work", work, upper)
    paths = [str(work / "work/#1"), str(index / "#2"), str(index / "orphan")]
    assert (told.status, [line.rsplit(":", 1)[0] for line in told.splitlines()]) == (4, paths)
    assert (sorted(os.listdir(index)), os.listdir(work / "work/#1")) == (sorted([*left, "#2", "orphan"]), ["deep"])
    assert unionfs("fsck", "--repair", "--work", work, upper).status == 1
    assert (sorted(os.listdir(index)), os.listdir(work / "work")) == (left, ["incompat"])
    assert unionfs("fsck", "--work", work, upper).status == 0


def test_hostile_names_do_not_reach_the_terminal(unionfs: Command, images: Images) -> None:
    image_of(images, [archive_of(directory("\x1b[31m\n"), file("\x1b[31m\n/\udcff"))], "evil:1")
    for command in (["ls", "-R", "evil:1"], ["tree", "evil:1"], ["find", "evil:1"], ["which", "evil:1:/\x1b[31m\n"]):
        told = unionfs(*command)
        assert "\x1b" not in told
        assert "\xff" not in told


@pytest.mark.root
def test_a_redirect_to_nothing_is_spelled_out_and_no_errno_is(unionfs: Command, tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir()
    (upper / "etc").mkdir(parents=True)
    os.setxattr(upper / "etc", "trusted.overlay.redirect", b"/nowhere")
    assert unionfs("fsck", "--lower", lower, upper).splitlines() == ["/etc: redirected to '/nowhere', where nothing is"]
    told = unionfs("convert", "--lower", lower, "--to", "aufs", upper, tmp_path / "aufs")
    assert told.status == 1
    assert told.errors == "unionfs: error: Input/output error: 'etc' is redirected to '/nowhere', where nothing is\n"
