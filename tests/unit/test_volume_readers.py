"""Programs that are not ours read all of a volume, as a whole and damaged."""

from __future__ import annotations

import hashlib
import stat
from collections import Counter
from pathlib import Path

import pytest
from support.discreaders import linux, udfclient
from support.volumes import burn, content

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.geometry import MAIN_SEQUENCE_SECTOR, PARTITION_SECTOR, SEQUENCE_SECTORS
from hsmfs.volume.names import disc_path
from hsmfs.volume.source import FileSource

NAMES = (
    b"plain.txt",
    "中文/日本語のファイル.dcm".encode(),
    "emoji 😀🧬/🩻.png".encode(),
    "e\u0301 combining".encode(),
    b"n" * 255,
    b"a" * 200 + "中".encode(),
    b"trailing dot./trailing space ",
    b"CON",
    b"a:b",
    b"back\\slash",
    b"new\nline",
    b"not-utf8/\xff\xfe\x80.bin",
    b"/".join([b"deep"] * 100) + b"/file",
)
SIZES = (0, 1, 2047, 2048, 2049, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)
DATES_NS = (-1_000_000_001, 0, 1_700_000_000_123_456_000, 4_102_444_800_000_000_000)
"""Before 1970, and after what 32 bits hold."""


def corpus() -> list[FileSource]:
    entries = [
        FileSource(
            path=path,
            ino=100 + number,
            data_version=1,
            size=SIZES[number % len(SIZES)],
            mode=stat.S_IFREG | (0o7777 >> number % 12),
            uid=number,
            gid=1000 + number,
            mtime_ns=DATES_NS[number % len(DATES_NS)],
            atime_ns=DATES_NS[number % len(DATES_NS)],
        )
        for number, path in enumerate(NAMES)
    ]
    entries += [FileSource(path=b"sizes/%d" % size, ino=300 + size, size=size) for size in SIZES]
    entries += [FileSource(path=b"wide/%05d" % n, ino=10_000 + n, size=n % 3) for n in range(1000)]
    entries += [
        FileSource(path=b"again", ino=100, size=entries[0].size, link_of=NAMES[0]),
        FileSource(path=b"nothing in it", ino=900, kind="dir", mode=stat.S_IFDIR | 0o2711),
        FileSource(path=b"symlink", ino=901, kind="symlink", target=b"/nowhere"),
    ]
    return entries


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readers") / "volume.img"
    burn(path, "HSM 卷 7", corpus(), own={b"recover.py": b"print()\n"})
    return path


def files() -> dict[bytes, FileSource]:
    """By path on the disc; a link has the bytes of its file."""
    by_path = {entry.path: entry for entry in corpus() if entry.kind == "file"}
    return {
        disc_path(path).encode(): by_path[entry.link_of] if entry.link_of else entry
        for path, entry in by_path.items()
    }


def test_linux_reads_every_file_with_its_attributes(image: Path, tmp_path: Path) -> None:
    found = linux(image, tmp_path)
    assert found["errors"] == []
    assert not [line for line in found["log"] if "INFO Mounting volume" not in line]
    entries = found["entries"]
    for path, source in files().items():
        mode, uid, gid, links, size, mtime_ns, digest = entries.pop(path)
        assert digest == hashlib.sha256(content(source)).hexdigest(), path
        assert (mode, uid, gid, size) == (source.mode, source.uid, source.gid, source.size), path
        assert mtime_ns == source.mtime_ns // 1000 * 1000, path
        assert links == (2 if source.path == NAMES[0] else 1)
    assert entries.pop(b"nothing in it")[0] == stat.S_IFDIR | 0o2711
    for path in [path for path, facts in entries.items() if stat.S_ISDIR(facts[0])]:
        del entries[path]
    assert set(entries) == {b".hsm/README.txt", b".hsm/recover.py", b".hsm/manifest.jsonl"}


LOST = {
    "main sequence": range(MAIN_SEQUENCE_SECTOR, MAIN_SEQUENCE_SECTOR + SEQUENCE_SECTORS),
    "metadata file's entry": range(PARTITION_SECTOR, PARTITION_SECTOR + 1),
    "anchor at 256": range(256, 257),
    "all before the partition but recognition": range(20, PARTITION_SECTOR),
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_linux_mounts_what_is_damaged(lost: range, image: Path, tmp_path: Path) -> None:
    data = bytearray(image.read_bytes())
    data[lost.start * SECTOR_BYTES : lost.stop * SECTOR_BYTES] = bytes(len(lost) * SECTOR_BYTES)
    damaged = tmp_path / "damaged.img"
    damaged.write_bytes(data)
    found = linux(damaged, tmp_path)
    assert found["errors"] == []
    for path, source in files().items():
        assert found["entries"][path][6] == hashlib.sha256(content(source)).hexdigest(), path


def test_udfclient_reads_every_file(image: Path, tmp_path: Path) -> None:
    said = udfclient(image, tmp_path / "out")
    assert "error" not in said.lower(), said
    found = Counter(
        hashlib.sha256(path.read_bytes()).digest()
        for path in (tmp_path / "out" / "disc").rglob("*")
        if path.is_file()
    )
    # It shows what is not ASCII by "_" and a checksum: names cannot be compared.
    expected = Counter(hashlib.sha256(content(source)).digest() for source in files().values())
    assert not expected - found
    assert (found - expected).total() == 3  # README, recover.py, manifest
