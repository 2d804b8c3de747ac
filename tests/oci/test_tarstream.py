"""The reader of tar archives agrees with the stdlib's on sound ones, and refuses damaged ones."""

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from unionfs.errors import ImageError
from unionfs.oci.compression import decompressed
from unionfs.oci.entry import Kind
from unionfs.oci.tarheader import Member, number, pax_records
from unionfs.oci.tarstream import TarReader

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
TYPES = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIR,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARDLINK,
    tarfile.CHRTYPE: Kind.CHAR,
    tarfile.BLKTYPE: Kind.BLOCK,
    tarfile.FIFOTYPE: Kind.FIFO,
}
NAMES = st.lists(st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=60), min_size=1)


class Dribble(io.RawIOBase):
    """A source that gives as little as it may."""

    def __init__(self, content: bytes, step: int) -> None:
        self._file = io.BytesIO(content)
        self._step = step

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, self._step))


def read(archive: bytes, step: int = 1 << 20) -> list[tuple[Member, bytes]]:
    reader = TarReader(Dribble(archive, step))
    found = []
    for member in reader:
        content = bytearray(member.size)
        for offset, chunk in reader.content():
            content[offset : offset + len(chunk)] = chunk
        found.append((member, bytes(content)))
    return found


def archive_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def info_of(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    kind = draw(st.sampled_from(sorted(TYPES)))
    info = info_of("/".join(draw(NAMES)), kind)
    info.mode = draw(st.integers(0, 0o7777))
    info.uid, info.gid = draw(st.integers(0, 2**40)), draw(st.integers(0, 2**31))
    info.mtime = draw(st.integers(-(2**33), 2**33))
    if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE}:
        info.linkname = "/".join(draw(NAMES))
    if kind in {tarfile.CHRTYPE, tarfile.BLKTYPE}:
        info.devmajor, info.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 2**20))
    return info, draw(st.binary(max_size=1500)) if kind == tarfile.REGTYPE else b""


@pytest.mark.property
@given(st.lists(members(), max_size=4), st.sampled_from(FORMATS[1:]), st.sampled_from([1, 100, 512, 1 << 20]))
@settings(deadline=None)
def test_it_reads_what_tarfile_wrote(given: list[tuple[tarfile.TarInfo, bytes]], form: int, step: int) -> None:
    found = read(archive_of(*given, form=form), step)
    assert len(found) == len(given)
    for (info, content), (member, bytes_read) in zip(given, found, strict=True):
        assert member.path.rstrip(b"/") == info.name.encode()
        assert member.kind is TYPES[info.type]
        assert (member.mode, member.uid, member.gid) == (info.mode, info.uid, info.gid)
        assert (member.mtime_ns, member.link) == (int(info.mtime) * 10**9, info.linkname.encode())
        assert (member.major, member.minor) == (info.devmajor, info.devminor)
        assert bytes_read == content


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read(form: int) -> None:
    path = "dir/" * 20 + "name"
    ((member, content),) = read(archive_of((info_of(path, mode=0o4755, mtime=7), b"x" * 513), form=form))
    assert (member.path, member.mode, member.mtime_ns, content) == (path.encode(), 0o4755, 7 * 10**9, b"x" * 513)


def test_pax_records_carry_what_headers_cannot() -> None:
    records = {"mtime": "1700000000.123456789", "SCHILY.xattr.user.a": "v\0\udcff", "comment": "x"}
    ((member, _),) = read(archive_of((info_of("f\udcff", pax_headers=records), b"")))
    assert member.mtime_ns == 1700000000123456789
    assert member.xattrs == {"user.a": b"v\0\xff"}
    assert member.path == b"f\xff"


@pytest.mark.parametrize(("text", "ns"), [("-1.5", -1_500_000_000), ("0.1234567899", 123456789), ("3", 3 * 10**9)])
def test_times_are_exact(text: str, ns: int) -> None:
    ((member, _),) = read(archive_of((info_of("f", pax_headers={"mtime": text}), b"")))
    assert member.mtime_ns == ns


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar here")
@pytest.mark.parametrize(
    "form", [["gnu"], ["posix", "--sparse-version=0.0"], ["posix", "--sparse-version=0.1"], ["posix"]]
)
def test_sparse_files_of_gnu_tar_are_read(form: list[str], tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        for at in range(40):
            file.seek(at * 200_000)
            file.write(b"data%d" % at)
        file.truncate(9_000_000)
    command = ["tar", "-cS", "-C", str(tmp_path), f"--format={form[0]}", *form[1:], "holes"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    ((member, content),) = read(archive)
    assert len(archive) < 500_000
    assert (member.path, member.kind, content) == (b"holes", Kind.FILE, (tmp_path / "holes").read_bytes())


def damaged() -> dict[str, bytes]:
    """Archives that a careless reader believes."""
    sound = archive_of((info_of("a"), b"x" * 600), (info_of("b"), b"y"))
    long = archive_of((info_of("n" * 300), b""))
    huge = bytearray(archive_of((info_of("n" * 300), b"")))
    huge[124:136] = b"77777777777\0"
    huge[148:156] = b"%06o\0 " % (sum(huge[:148]) + sum(huge[156:512]) + 256)
    return {
        "cut in a header": sound[:100],
        "cut in content": sound[:1000],
        "cut before padding": sound[: 512 + 600],
        "a later header is damaged": sound[:1536] + b"X" + sound[1537:],
        "a pax header that claims gigabytes": bytes(huge),
        "a pax header with nothing after it": long[:1024] + bytes(1024),
        "a pax record without length": long.replace(b"310 path", b"x10 path"),
        "a pax record too long": long.replace(b"310 path", b"999 path"),
        "not a tar at all": b"hello world" * 100,
        "a number that is none": sound.replace(b"0000644\0", b"00zz644\0", 1),
        "a number with a sign": sound.replace(b"0000644\0", b"+000644\0", 1),
        "a number with an underscore": sound.replace(b"0000644\0", b"000_644\0", 1),
        "a base-256 number of other bits": resized(b"\x81" + bytes(11)),
        "a base-256 size below 0": resized(b"\xff" * 12),
        "of an unknown type": archive_of((info_of("v", b"V"), b"")),
        "of an obsolete type": archive_of((info_of("v", b"N"), b"")),
        "of negative size": archive_of((info_of("f", pax_headers={"size": "-1"}), b"")),
        "a time that is none": archive_of((info_of("f", pax_headers={"mtime": "1e5"}), b"")),
        "an id that is none": archive_of((info_of("f", pax_headers={"uid": "0x1"}), b"")),
        "a sparse map backwards": sparse("4,1,0,1", 9),
        "a sparse map beyond the file": sparse("0,1,8,1", 4),
        "a sparse map of other length": sparse("0,1", 4),
        "a sparse map that is none": sparse("0,x", 4),
        "a sparse map of odd length": sparse("0,1,2", 4),
        "a sparse 1.0 map without content": sparse("", 4),
    }


def resized(size: bytes) -> bytes:
    """Return an archive of a file whose header has that size."""
    header = bytearray(archive_of((info_of("f"), b"")))
    header[124:136] = size
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 256)
    return bytes(header)


def sparse(numbers: str, size: int) -> bytes:
    records = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(size)}
    if numbers:
        records["GNU.sparse.map"] = numbers
    return archive_of((info_of("s", pax_headers=records), b"xy"))


@pytest.mark.parametrize("name", damaged())
def test_a_damaged_archive_is_refused(name: str) -> None:
    with pytest.raises(ImageError, match="not a sound tar archive"):
        read(damaged()[name])


def test_the_end_mark_is_seen_and_the_rest_is_read() -> None:
    source = io.BytesIO(archive_of((info_of("a"), b"")) + b"trailing")
    reader = TarReader(source)
    assert [member.path for member in reader] == [b"a"]
    assert reader.ended
    reader.drain()
    assert source.read() == b""
    cut = TarReader(io.BytesIO(archive_of((info_of("a"), b""))[:512]))
    assert (len(list(cut)), cut.ended) == (1, False)


def test_the_size_in_a_pax_header_is_the_one_that_counts() -> None:
    """Readers that believe different ones see different members."""
    headers = archive_of((info_of("f", pax_headers={"size": "9"}), b""))[:1536]
    ((_, content),) = read(headers + b"content 9".ljust(512, b"\0") + bytes(1024))
    assert content == b"content 9"


def test_global_headers_name_nobody() -> None:
    record = b"13 path=evil\n"
    special = info_of("g", b"g", size=len(record)).tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    ((member, _),) = read(special + archive_of((info_of("f"), b"")))
    assert member.path == b"f"


def test_a_window_larger_than_any_layer_needs_is_refused() -> None:
    """It would be a buffer of 2 GiB for a frame of a few bytes."""
    parameters = zstandard.ZstdCompressionParameters(window_log=31)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(ImageError, match="memory"):
        decompressed(io.BytesIO(packer.compress(b"content") + packer.flush())).read()


def test_members_of_a_gzip_stream_are_one_stream() -> None:
    archive = archive_of((info_of("f"), b"x" * 2000))
    packed = gzip.compress(archive[:700]) + gzip.compress(archive[700:]) + bytes(512)
    assert decompressed(io.BytesIO(packed)).read() == archive


def test_content_left_unread_is_skipped() -> None:
    reader = TarReader(Dribble(archive_of((info_of("a"), b"x" * 5000), (info_of("b"), b"yy")), 700))
    seen = [(member.path, next(reader.content())[1][:2]) for member in reader]
    assert seen == [(b"a", b"xx"), (b"b", b"yy")]


@given(st.binary(max_size=2048))
@pytest.mark.property
def test_noise_is_refused_or_empty_but_never_a_crash(noise: bytes) -> None:
    for archive in (noise, archive_of((info_of("a" * 200), b"x"))[:512] + noise):
        try:
            read(archive)
        except ImageError:
            continue


@given(st.binary(max_size=40))
@pytest.mark.property
def test_records_and_numbers_of_noise(noise: bytes) -> None:
    for parse in (pax_records, lambda text: number(text.ljust(12, b"\0"))):
        try:
            parse(noise)
        except ImageError:
            continue


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        file.write(info_of("big", size=1 << 28).tobuf())
        file.truncate((1 << 28) + 512 + 1024)
    with path.open("rb") as file:
        reader = TarReader(file)
        largest = max(len(chunk) for _ in reader for _, chunk in reader.content())
    assert largest <= 1 << 20
    assert os.path.getsize(path) > 200 * largest
