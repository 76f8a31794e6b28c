"""What the golden images were made of (see tests/golden/README.md); changes make other bytes."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

from hsmfs.volume.source import FileSource, VolumeHeader

FOLDER = Path(__file__).parent.parent / "golden"
WHEN_NS = 1_700_000_000_123_456_000
"""2023-11-14 22:13:20.123456 UTC."""
OWN = FileSource(path=b"recover.py", ino=0, kind="own", size=8, mode=0o100444, mtime_ns=WHEN_NS)
ENTRIES = [
    FileSource(path=b"study", ino=2, kind="dir", mode=0o42750, uid=1000, gid=2000),
    FileSource(
        path=b"study/scan.dcm",
        ino=3,
        data_version=4,
        size=5000,
        mode=0o100640,
        uid=1000,
        gid=2000,
        mtime_ns=WHEN_NS - 1_000_000_000,
        atime_ns=WHEN_NS,
        ctime_ns=WHEN_NS + 1_000_000_000,
        xattrs={b"user.dicom.uid": b"1.2.3"},
    ),
    FileSource(path="影像.txt".encode(), ino=4, size=2048, mode=0o104755, mtime_ns=-1_000),
    FileSource(path=b"again", ino=3, link_of=b"study/scan.dcm"),
    FileSource(path=b"empty", ino=5, mode=0o100600),
    FileSource(path=b"not utf-8 \xff.bin", ino=6, size=1),
    FileSource(path=b"symlink", ino=7, kind="symlink", mode=0o120777, target=b"study/scan.dcm"),
]


def header(label: str, udf: str = "2.50") -> VolumeHeader:
    return VolumeHeader(
        label=label, site="golden", pool="archive", created_ns=WHEN_NS, copies=2, udf=udf
    )


def opened(entry: FileSource) -> io.BytesIO:
    """Lines that say whose they are."""
    line = b"print()\n" if entry.kind == "own" else b"inode %d\n" % entry.ino
    return io.BytesIO((line * (entry.size // len(line) + 1))[: entry.size])


def image(name: str) -> bytes:
    """An image as it is kept."""
    return lzma.decompress((FOLDER / f"{name}.img.xz").read_bytes())
