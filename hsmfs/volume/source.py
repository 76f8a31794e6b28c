"""What a volume is planned from: its header and its entries."""

from __future__ import annotations

from typing import Final

import msgspec

FORMAT_VERSION: Final = 2
"""2 has own files; a reader of 2 reads 1."""
OWN_DIRECTORY: Final = b".hsm"
"""Directory of the volume's own files, at the top."""
RECOVERY_NAME: Final = "recovery.bin"
"""Own file that is made of all bytes before it, see recovery.py; the last with data."""
PARTS: Final = "parts"
"""The feature of a volume that holds parts of files: a reader must not take one for all."""
KNOWN_FEATURES: Final[frozenset[str]] = frozenset({PARTS})
"""Features that change the meaning of a disc; a reader refuses others."""


UDF_REVISIONS: Final = {"2.50": 0x0250, "2.01": 0x0201}
"""By what a header calls them."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Which bytes of a file that is larger than a disc an entry holds."""

    number: int
    """From 1."""
    parts: int
    start: int
    """First byte of the file that is here; a multiple of 4 MiB."""
    total: int
    """Bytes of the whole file."""
    volumes: list[str] = []
    """Labels of the volumes that all parts were planned for, in order."""
    sha256: str = ""
    """Of the whole file, 64 hex digits; empty on volumes that were made before it was noted."""


class FileSource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One name on a volume: a file, a further name of one, or a directory.

    ``path`` is relative to the mount, without a slash at the start. Symbolic
    links are recorded in the manifest only.
    """

    path: bytes
    ino: int
    data_version: int = 0
    size: int = 0
    mtime_ns: int = 0
    atime_ns: int = 0
    ctime_ns: int = 0
    mode: int = 0o100644
    uid: int = 0
    gid: int = 0
    xattrs: dict[bytes, bytes] = {}
    link_of: bytes | None = None
    """Path of an earlier entry that is the same file."""
    kind: str = "file"
    """``file``, ``dir``, ``symlink``, or ``own``: a file of the volume's own, whose
    path is relative to ``.hsm``; these are planned first."""
    target: bytes = b""
    part: Part | None = None
    """Of a file that is in parts: ``size`` is this part's."""

    @property
    def has_data(self) -> bool:
        """A file's first name: the one whose bytes are written."""
        return self.kind in ("file", "own") and self.link_of is None

    @property
    def is_recovery(self) -> bool:
        """Whether its bytes come of those before it."""
        return self.kind == "own" and self.path == RECOVERY_NAME.encode()

    @property
    def key(self) -> bytes:
        """The path as the volume has it before names are shortened; apart from all others
        for the volume's own files."""
        if self.part is not None:
            return part_path(self.path, self.part.number)
        return OWN_DIRECTORY + b"//" + self.path if self.kind == "own" else self.path

    @property
    def link_key(self) -> bytes | None:
        """The key of the entry that it is a further name of."""
        if self.part is None or self.link_of is None:
            return self.link_of
        return part_path(self.link_of, self.part.number)


def part_path(path: bytes, number: int) -> bytes:
    """What a part of a file is called: sorted by name they are in order."""
    return b"%b.part%04d" % (path, number)


class ParityMember(msgspec.Struct, frozen=True, kw_only=True):
    """One volume of a parity set; its index is its place in the list."""

    label: str
    sectors: int
    xxh3: str
    """XXH3 of 128 bits of the image, 32 hex digits."""


class ParityInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a parity volume protects: one of P or Q over same-numbered sectors."""

    set: str
    kind: str
    """``p`` or ``q``."""
    members: list[ParityMember]


class VolumeHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of the volume as a whole."""

    label: str
    site: str
    pool: str
    created_ns: int
    copies: int = 1
    parity: ParityInfo | None = None
    """Of a parity volume, whose data is the own file ``parity.bin``."""
    features: list[str] = []
    """Of ``KNOWN_FEATURES``."""
    udf: str = "2.50"
    """Or ``2.01``, which old systems and GRUB read: metadata is there only once."""
