"""The text form of a union, as mount(8), fuse-overlayfs and container engines write it."""

from pathlib import Path

import pytest

from unionfs.core.config import Config, Fsync, IdMap, RedirectDir, Squash, Xino
from unionfs.core.mountoptions import FLAG_GROUPS, MountOptions
from unionfs.core.options import OPTIONS, Reading, read, split_lowerdir
from unionfs.errors import ConfigError

BASE = "lowerdir=/l,upperdir=/u,workdir=/w,"


def reading(*texts: str, strict: bool = False) -> Reading:
    result = Reading()
    for text in texts:
        read(text, result, strict=strict)
    return result


def config(*texts: str) -> Config:
    return reading(*texts).config()


def mount(*texts: str) -> MountOptions:
    return reading(*texts).mount()


UNION: dict[str, tuple[str, str, object]] = {
    "redirect on": ("redirect_dir=on", "redirect_dir", RedirectDir.ON),
    "redirect nofollow": ("redirect_dir=nofollow", "redirect_dir", RedirectDir.NOFOLLOW),
    "index": ("index=on", "index", True),
    "index off": ("index=on,index=off", "index", False),
    "metacopy": ("metacopy=on", "metacopy", True),
    "xino": ("xino=off", "xino", Xino.OFF),
    "userxattr": ("userxattr", "userxattr", True),
    "volatile": ("volatile", "volatile", True),
    "volatile as fsync": ("fsync=volatile", "volatile", True),
    "fsync strict": ("fsync=strict", "fsync", Fsync.STRICT),
    "fsync of fuse-overlayfs": ("fsync=0", "fsync", Fsync.VOLATILE),
    "the same by its other name": ("sync=0", "fsync", Fsync.VOLATILE),
    "fsync=0 leaves no marker": ("fsync=0", "volatile", False),
    "podman's map": ("uidmapping=:0:100000:65536", "uidmapping", (IdMap(0, 100000, 65536),)),
    "two ranges": ("gidmapping=0:1000:1:1:2000:5", "gidmapping", (IdMap(0, 1000, 1), IdMap(1, 2000, 5))),
    "squash": ("squash_to_root", "squash", Squash(0, 0)),
    "squash one half": ("squash_to_uid=7", "squash", Squash(7, None)),
    "a named owner wins over root": ("squash_to_uid=7,squash_to_root", "squash", Squash(7, 0)),
    "xattr_permissions": ("xattr_permissions=2", "xattr_permissions", 2),
    "ro": ("ro", "read_only", True),
    "rw after ro": ("ro,rw", "read_only", False),
    "noacl": ("noacl", "noacl", True),
    "static_nlink": ("static_nlink", "static_nlink", True),
    "empty elements": (",,noacl,,", "noacl", True),
    "escaped comma": (r"upperdir=/with\,comma", "upper", Path("/with,comma")),
    "escaped backslash": (r"upperdir=/back\\slash", "upper", Path("/back\\slash")),
    "escaped colon": (r"workdir=/w\:x", "work", Path("/w:x")),
    "an equals sign in a path": ("upperdir=/a=b", "upper", Path("/a=b")),
    "a space and a newline": ("upperdir=/a b\nc", "upper", Path("/a b\nc")),
    "a name that is not UTF-8": ("upperdir=/\udcff", "upper", Path("/\udcff")),
}


@pytest.mark.parametrize(("text", "field", "value"), UNION.values(), ids=UNION.keys())
def test_an_option_of_the_union(text: str, field: str, value: object) -> None:
    assert getattr(config(BASE + text), field) == value


LAYERS: dict[str, tuple[tuple[str, ...], list[str], list[str]]] = {
    "top first": (("lowerdir=/a:/b",), ["/a", "/b"], []),
    "a later one replaces": (("lowerdir=/a:/b", "lowerdir=/c"), ["/c"], []),
    "data-only": (("lowerdir=/a::/d::/e",), ["/a"], ["/d", "/e"]),
    "one more": (("lowerdir=/a,lowerdir+=/b:c",), ["/a", "/b:c"], []),
    "one more with a comma": ((r"lowerdir+=/a\,b",), ["/a,b"], []),
    "one more data-only": (("lowerdir=/a", "datadir+=/d"), ["/a"], ["/d"]),
    "an empty one drops all": (("lowerdir=/a,datadir+=/d,lowerdir=,lowerdir+=/b",), ["/b"], []),
    "escapes": ((r"lowerdir=/a\:b:/c\\:/d\,e",), ["/a:b", "/c\\", "/d,e"], []),
    "500": (("lowerdir=" + ":".join(f"/{i}" for i in range(500)),), [f"/{i}" for i in range(500)], []),
}


@pytest.mark.parametrize(("texts", "lower", "data_only"), LAYERS.values(), ids=LAYERS.keys())
def test_layers(texts: tuple[str, ...], lower: list[str], data_only: list[str]) -> None:
    result = config(*texts)
    assert [str(path) for path in result.lower] == lower
    assert [str(path) for path in result.data_only] == data_only


REFUSED: dict[str, tuple[str, str]] = {
    "a colon at the end": ("lowerdir=/a:", "empty layer"),
    "a colon at the start": ("lowerdir=:/a", "empty layer"),
    "three colons": ("lowerdir=/a:::/b", "empty layer"),
    "a layer below data-only ones": ("lowerdir=/a::/d:/b", "follows the data-only"),
    "lowerdir+ after datadir+": ("lowerdir=/a,datadir+=/d,lowerdir+=/b", "follows the data-only"),
    "no value": ("upperdir", "upperdir: a value is missing"),
    "empty path": ("upperdir=", "upperdir: an empty path"),
    "a value too many": ("volatile=1", "volatile: it takes no value"),
    "not a switch": ("index=maybe", "neither on nor off"),
    "not a mode": ("redirect_dir=auto", "redirect_dir: 'auto' is not one of on, off"),
    "not an xino": ("xino=1", "xino: '1' is not one of"),
    "not an fsync": ("fsync=2", "fsync: '2' is not one of"),
    "half a map": ("uidmapping=0:1", "uidmapping: '0:1' is not a list"),
    "not a number": ("squash_to_uid=root", "squash_to_uid: 'root' is not a number"),
    "a negative time": ("timeout=-1", "timeout: '-1' is not a number of seconds"),
    "an unknown engine": ("engine=fast", "engine: 'fast' is not one of"),
    "what we cannot do": ("nfs_export=on", "nfs_export is not supported"),
    "what we do not check": ("verity=require", "verity is not supported"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(BASE + text)


def test_unknown_options_are_warned_about() -> None:
    result = reading(BASE + "plugins=/x,sparkle")
    assert result.warnings == ["unknown option 'plugins' is ignored", "unknown option 'sparkle' is ignored"]
    assert result.config().upper == Path("/u")


def test_unknown_options_are_errors_where_people_type_them() -> None:
    with pytest.raises(ConfigError, match="unknown option 'metacpy'; try: metacopy"):
        reading("metacpy=on", strict=True)


def test_what_is_for_others_is_neither() -> None:
    passed_by_mount_and_podman = "defaults,nofail,_netdev,x-systemd.automount,private,comment=mine"
    assert reading(BASE + passed_by_mount_and_podman, strict=True).warnings == []


def test_without_an_upperdir_its_options_are_ignored_with_a_note() -> None:
    result = reading("lowerdir=/l,workdir=/w,index=on,volatile")
    assert result.config().read_only
    assert [note.split()[0] for note in result.warnings] == ["workdir", "index", "volatile"]


def test_context_may_hold_commas_in_quotes() -> None:
    assert reading(BASE + 'context="system_u:object_r:t:s0:c1,c2",noacl').config().noacl


def test_a_mount_is_named_and_flagged() -> None:
    options = mount(r"fsname=a\,b,subtype=x,nosuid,suid,noatime,ro,auto_unmount,engine=direct,follow=off")
    assert (options.fsname, options.subtype, options.engine) == ("a,b", "x", "direct")
    assert (options.auto_unmount, options.follow) == (True, False)
    assert sorted(options.flags) == ["noatime", "ro", "suid"]


def test_every_flag_of_mount_8_is_known() -> None:
    words = (
        "rw ro dev nodev suid nosuid exec noexec sync dirsync atime noatime nodiratime relatime strictatime "
        "allow_other default_permissions"
    )
    assert reading(BASE + words.replace(" ", ","), strict=True).warnings == []


def test_one_timeout_sets_all_three() -> None:
    options = mount("timeout=2.5,negative_timeout=0")
    assert (options.entry_timeout, options.attr_timeout, options.negative_timeout) == (2.5, 2.5, 0)


def test_users_never_get_devices_or_set_id_programs() -> None:
    asked = mount("dev,suid,exec")
    assert sorted(asked.flags_for(privileged=True)) == ["dev", "exec", "suid"]
    assert sorted(asked.flags_for(privileged=False)) == ["exec", "nodev", "nosuid"]


def test_root_lets_others_in_and_a_user_only_if_asked() -> None:
    assert mount("").allows_other(privileged=True)
    assert not mount("").allows_other(privileged=False)
    assert mount("allow_other").allows_other(privileged=False)


def test_every_option_explains_itself() -> None:
    assert all(option.help and len(option.help) < 90 for option in OPTIONS.values())
    assert {word for group in FLAG_GROUPS for word in group} <= OPTIONS.keys()


def test_splitting_is_the_reverse_of_escaping() -> None:
    names = ["/plain", "/co:lon", "/back\\", "/\\:", "/com,ma"]
    text = ":".join(name.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") for name in names)
    assert [str(path) for path in split_lowerdir(text)[0]] == names
