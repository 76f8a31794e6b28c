"""The same plan gives the same bytes as in every earlier release: hashes of whole images."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable

import pytest
import xxhash

from hsmfs.volume.layout import FileSource, VolumeHeader, plan_volume
from hsmfs.volume.source import ParityInfo, ParityMember
from hsmfs.volume.writer import VolumeWriter

HEADER = VolumeHeader(
    label="HSM000001", site="site-1", pool="archive", created_ns=1_700_000_000_123_456_789, copies=2
)
AWKWARD = (
    b"plain.txt",
    "目录/子目录/文件.dcm".encode(),
    "mixed/é à ü — emoji 😀.txt".encode(),
    b"n" * 255,
    b"a" * 200 + "中".encode(),
    b"not-utf8/\xff\xfe\x80.bin",
    b".hsm",
    b".hsm/README.txt",
    b"looks/like~0123456789abcdef.txt",
    b"/".join([b"deep"] * 30),
    b"newline\nname",
)
SIZES = (0, 1, 2047, 2048, 2049, 65536, 5 << 20)


def content(entry: FileSource) -> bytes:
    return random.Random(entry.ino).randbytes(entry.size)


def awkward() -> list[FileSource]:
    """Every kind of entry, names in an order that visits directories again."""
    entries = [
        FileSource(path=b"changes.gz", ino=0, kind="own", size=3000, mode=0o100444),
        FileSource(path=b"manifests/HSM000000.jsonl.gz", ino=0, kind="own", size=5),
        FileSource(path=b"", ino=1, kind="dir", mode=0o41777, uid=4),
    ]
    for turn, path in enumerate(AWKWARD):
        entries.append(
            FileSource(
                path=path + (b"/x" if path == b".hsm" else b""),
                ino=100 + turn,
                data_version=turn,
                size=SIZES[turn % len(SIZES)],
                mtime_ns=1_600_000_000_111_222_333 + turn,
                atime_ns=-1_000_000_001,
                ctime_ns=2**62,
                mode=0o100000 | (0o4755 if turn % 2 else 0o640),
                uid=1000 + turn,
                gid=2000,
                xattrs={b"user.n\xff": b"\0\1", b"user.uid": b"1.2"} if turn % 3 == 0 else {},
            )
        )
    entries += [
        FileSource(path=b"sizes", ino=2, kind="dir", mode=0o41770, uid=7, gid=8),
        *(FileSource(path=b"sizes/%d" % n, ino=300 + n, size=n) for n in SIZES),
        FileSource(path=b"links/again", ino=100, link_of=AWKWARD[0]),
        FileSource(path=b"links/more", ino=100, link_of=AWKWARD[0]),
        FileSource(path=b"symlink", ino=900, kind="symlink", target=b"../\xff", mode=0o120777),
        FileSource(path=b"implied/by/symlink", ino=902, kind="symlink", target=b"x"),
        FileSource(path=b"implied", ino=903, kind="dir", mode=0o40711, uid=12),
        FileSource(path=b"empty", ino=901, kind="dir", mode=0o40700),
        FileSource(path=b"sizes/deep/down", ino=904, size=77),
    ]
    return entries


def wide() -> list[FileSource]:
    """Directories of several blocks, visited in turns."""
    return [
        FileSource(path=b"wide%d/d%03d/image %05d" % (n % 3, n // 50, n), ino=2 + n, size=n % 4100)
        for n in range(2000)
    ]


def parity() -> list[FileSource]:
    return [FileSource(path=b"parity.bin", ino=0, kind="own", size=100_000)]


MEMBER = ParityMember(label="HSM000009", sectors=800, xxh3="0" * 32)
PARITY = ParityInfo(set="M1", kind="p", members=[MEMBER])
PARITY_HEADER = VolumeHeader(
    label="HSM00000P", site="s", pool="p", created_ns=5, copies=1, parity=PARITY
)
Opener = Callable[[FileSource], io.BytesIO]


def opened(entry: FileSource) -> io.BytesIO:
    return io.BytesIO(content(entry))


def partly(entry: FileSource) -> io.BytesIO:
    """Sources that fail, are short, are long; and an empty one that is not kept."""
    if entry.ino % 11 == 0:
        raise PermissionError(entry.path)
    if entry.size == 0:
        raise FileNotFoundError(entry.path)
    data = content(entry)
    return io.BytesIO(data[:-1] if entry.ino % 7 == 0 else data + b"x" * (entry.ino % 5 == 0))


def image_of(header: VolumeHeader, entries: list[FileSource], source: Opener) -> tuple[str, str]:
    """SHA-256 of the image and of the manifest as it is told afterwards."""
    writer = VolumeWriter(plan_volume(header, entries, 1 << 20))
    image, proof = hashlib.sha256(), xxhash.xxh3_128()
    for chunk in writer.stream(source):
        image.update(chunk)
        proof.update(chunk)
    assert writer.image_xxh3 == proof.hexdigest()
    return image.hexdigest()[:32], hashlib.sha256(b"".join(writer.manifest())).hexdigest()[:32]


@pytest.mark.parametrize(
    ("header", "entries", "source", "expected"),
    [
        (
            HEADER,
            awkward(),
            opened,
            ("630443533e75983cd04f5ea3a9f3aa3d", "8bece5f5eac0a00e14dc24d2f73e3948"),
        ),
        (
            HEADER,
            awkward(),
            partly,
            ("b3a8a8f701ba65d79e32b539805e7b6b", "4f58384d4ccedfa6af6d7e46a40138a0"),
        ),
        (
            HEADER,
            wide(),
            opened,
            ("54e42841cac50192261f196f59e5fcca", "ae9a2a853f0f69d8164871eadb1fc6c5"),
        ),
        (
            HEADER,
            [],
            opened,
            ("281ccb0083b5acd8834b23c4733dcc1d", "fc76dec74ffb4fee68e6f06659d9175c"),
        ),
        (
            PARITY_HEADER,
            parity(),
            opened,
            ("192177ecdde6ee8a7bb25e8953e7e975", "e74ddd4d49960e3c91dbc37f1173dca9"),
        ),
    ],
    ids=["awkward", "some void", "wide", "nothing", "parity"],
)
def test_bytes_are_those_of_every_release(
    header: VolumeHeader, entries: list[FileSource], source: Opener, expected: tuple[str, str]
):
    assert image_of(header, entries, source) == expected
