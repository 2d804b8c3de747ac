"""The wire format: golden bytes, and what becomes of requests that no kernel would send."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.core.request import NOW, Changes
from unionfs.fuse import wire
from unionfs.fuse.protocol import Feature, Notify, Opcode, negotiate

# As `sizeof` says, from a C program over include/uapi/linux/fuse.h 7.45.
SIZES = {
    wire.HEADER: 40,
    wire.REPLY: 16,
    wire.FORGET: 8,
    wire.FORGET_ONE: 16,
    wire.BATCH_FORGET: 8,
    wire.GETATTR: 16,
    wire.SETATTR: 88,
    wire.MKNOD: 16,
    wire.MKDIR: 8,
    wire.RENAME: 8,
    wire.RENAME2: 16,
    wire.LINK: 8,
    wire.OPEN: 8,
    wire.CREATE: 16,
    wire.READ: 40,
    wire.WRITE: 40,
    wire.RELEASE: 24,
    wire.FSYNC: 16,
    wire.SETXATTR: 8,
    wire.SETXATTR_EXT: 16,
    wire.GETXATTR: 8,
    wire.INIT: 16,
    wire.INTERRUPT: 8,
    wire.IOCTL: 32,
    wire.FALLOCATE: 32,
    wire.LSEEK: 24,
    wire.COPY: 56,
    wire.STATX: 24,
    wire.ENTRY: 128,
    wire.ATTRIBUTES: 104,
    wire.OPENED: 16,
    wire.WRITTEN: 8,
    wire.STATFS: 80,
    wire.IOCTL_DONE: 16,
    wire.INITED: 64,
    wire.DIRENT: 24,
    wire.STATXED: 32,
    wire.STATX_BODY: 256,
    wire.INVAL_INODE: 24,
    wire.INVAL_ENTRY: 16,
    wire.STORE: 24,
}

# What Linux 6.18 sent (little endian), without the header: mkdir("d", 0750), umask 022.
MKDIR = bytes.fromhex("e8410000 12000000") + b"d\0"
# utimensat(.., {UTIME_OMIT, 1.000000002}), chmod 0640.
SETATTR = struct.pack("<IIQQQqqqIIIIIIII", 1 | 1 << 5, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0o100640, 0, 0, 0, 0)


def stat_of(**changes: int) -> os.stat_result:
    """Attributes that differ in every field."""
    named = {
        "st_mode": 0o100644,
        "st_ino": 7,
        "st_dev": 8,
        "st_nlink": 2,
        "st_uid": 3,
        "st_gid": 4,
        "st_size": 5,
        "st_atime": 0,
        "st_mtime": 0,
        "st_ctime": 0,
        "st_atime_float": 0.0,
        "st_mtime_float": 0.0,
        "st_ctime_float": 0.0,
        "st_atime_ns": 10_000_000_011,
        "st_mtime_ns": 12_000_000_013,
        "st_ctime_ns": 14_000_000_015,
        "st_blksize": 4096,
        "st_blocks": 16,
        "st_rdev": os.makedev(17, 18),
    }
    return os.stat_result(tuple((named | changes).values()))


@pytest.mark.parametrize("layout", SIZES, ids=lambda layout: layout.format)
def test_every_layout_has_the_size_of_its_structure(layout: struct.Struct) -> None:
    assert layout.size == SIZES[layout]


def test_an_entry_has_every_field_in_its_place() -> None:
    packed = wire.entry(1, 2, stat_of(), (3, 30), (4, 40))
    assert packed[:40] == struct.pack("<QQQQII", 1, 0, 3, 4, 30, 40)
    assert packed[40:] == struct.pack(
        "<QQQQQQIIIIIIIIII", 2, 5, 16, 10, 12, 14, 11, 13, 15, 0o100644, 2, 3, 4, 17 << 8 | 18, 4096, 0
    )


def test_a_time_before_1970_keeps_its_nanoseconds_positive() -> None:
    fields = wire.attr_fields(1, stat_of(st_mtime_ns=-1))
    assert (fields[4], fields[7]) == (-1, 999_999_999)


def test_a_large_device_number_takes_the_kernels_form() -> None:
    major, minor = 0xABC, 0x12345
    fields = wire.attr_fields(1, stat_of(st_rdev=os.makedev(major, minor)))
    assert fields[13] == (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def test_a_negative_entry_is_a_name_with_a_lifetime_and_no_node() -> None:
    assert wire.negative((9, 8)) == struct.pack("<QQQQI", 0, 0, 9, 0, 8) + bytes(92)


def test_a_listed_name_is_padded_to_eight_bytes() -> None:
    assert wire.dirent(1, 2, 8, b"name-of-9") == struct.pack("<QQII", 1, 2, 9, 8) + b"name-of-9" + bytes(7)
    assert wire.dirent(1, 2, 8, b"eight---")[-8:] == b"eight---"


def test_a_listed_name_with_what_it_is_is_an_entry_and_a_name() -> None:
    packed = wire.direntplus(1, ((3, 30), (4, 40)), 2, stat_of(), 9, b"name-of-9")
    assert packed == wire.entry(1, 2, stat_of(), (3, 30), (4, 40)) + wire.dirent(2, 9, 0o10, b"name-of-9")
    assert wire.DIRENTPLUS.size == wire.ENTRY.size + wire.DIRENT.size


def test_mkdir() -> None:
    assert wire.MKDIR.unpack_from(MKDIR) == (0o40750, 0o22)
    assert wire.name(MKDIR[wire.MKDIR.size :]) == b"d"


def test_a_setattr_says_only_what_changes() -> None:
    assert wire.setattr_changes(SETATTR) == (Changes(mode=0o640, mtime_ns=1_000_000_002), None)


def test_a_setattr_to_the_current_time_through_an_open_file() -> None:
    valid = 1 << 4 | 1 << 7 | 1 << 5 | 1 << 8 | 1 << 6 | 1 << 3 | 1 << 11
    body = struct.pack("<IIQQ", valid, 0, 77, 5) + bytes(64)
    expected = Changes(size=5, atime_ns=NOW, mtime_ns=NOW, kill_priv=True)
    assert wire.setattr_changes(body) == (expected, 77)


def test_setxattr_in_both_forms() -> None:
    old = struct.pack("<II", 3, 1) + b"user.a\0xyz"
    new = struct.pack("<IIII", 3, 1, 1, 0) + b"user.a\0xyz"
    assert wire.setxattr(old, wire.SETXATTR) == (b"user.a", b"xyz", 1, 0)
    assert wire.setxattr(new, wire.SETXATTR_EXT) == (b"user.a", b"xyz", 1, 1)


def test_a_notification_counts_the_data_that_follow() -> None:
    assert wire.notification(Notify.RESEND, b"") == struct.pack("<IiQ", 16, 7, 0)
    stored = wire.notification(Notify.STORE, wire.STORE.pack(5, 0, 3), 3)
    assert stored == struct.pack("<IiQ", 43, 4, 0) + struct.pack("<QQII", 5, 0, 3, 0)


def test_an_init_from_before_the_second_word_of_flags() -> None:
    assert wire.init(struct.pack("<IIII", 7, 31, 65536, 8)) == (7, 31, 65536, 8)
    assert wire.init(struct.pack("<IIIII", 7, 36, 65536, 8, 3) + bytes(44)) == (7, 36, 65536, 8 | 3 << 32)


def test_what_a_kernel_does_not_offer_is_not_used() -> None:
    wanted = Feature.MAX_PAGES | Feature.PASSTHROUGH | Feature.INIT_EXT
    assert negotiate(40, int(wanted), 0, wanted).features == wanted
    without_second_word = int(wanted) & ~Feature.INIT_EXT
    assert negotiate(40, without_second_word, 0, wanted).features == Feature.MAX_PAGES
    assert negotiate(99, 0, 0, wanted) == (45, Feature(0), 0)


def test_the_answer_to_init() -> None:
    agreed = negotiate(45, int(Feature.INIT_EXT | Feature.PASSTHROUGH), 131072, Feature.INIT_EXT | Feature.PASSTHROUGH)
    fields = struct.unpack("<IIIIHHIIHHII24x", wire.inited(agreed, stack_depth=1))
    assert fields == (7, 45, 131072, 1 << 30, 64, 48, 1 << 20, 1, 256, 0, 1 << 5, 1)


DECODERS = {
    "name": wire.name,
    "names": wire.names,
    "setattr": wire.setattr_changes,
    "forgets": wire.forgets,
    "write": wire.write_data,
    "setxattr": lambda body: wire.setxattr(body, wire.SETXATTR),
    "setxattr with flags": lambda body: wire.setxattr(body, wire.SETXATTR_EXT),
    "ioctl": wire.ioctl,
    "init": wire.init,
}


@pytest.mark.property
@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())
@given(body=st.binary(max_size=200))
def test_whatever_is_decoded_is_a_value_or_one_of_two_errors(decoder: object, body: bytes) -> None:
    assert callable(decoder)
    try:
        decoder(memoryview(body))
    except (struct.error, wire.Malformed):
        return


@given(st.binary(max_size=40).filter(lambda text: not text.endswith(b"\0")))
def test_a_name_without_its_end_is_malformed(text: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.name(text)


def test_an_announced_length_is_not_believed() -> None:
    for decoder, body in (
        (wire.write_data, wire.WRITE.pack(1, 0, 100, 0) + b"short"),
        (wire.forgets, wire.BATCH_FORGET.pack(1 << 31) + bytes(16)),
        (wire.ioctl, wire.IOCTL.pack(1, 0, 0, 0, 1 << 31, 0)),
    ):
        with pytest.raises(wire.Malformed):
            decoder(body)


def test_every_opcode_has_its_number_once() -> None:
    assert len({code.value for code in Opcode}) == len(Opcode.__members__)
