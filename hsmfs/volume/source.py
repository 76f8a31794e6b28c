"""What a volume is planned from: its header and its entries."""

from __future__ import annotations

from typing import Final

import msgspec

FORMAT_VERSION: Final = 2
"""2 has own files; a reader of 2 reads 1."""
OWN_DIRECTORY: Final = b".hsm"
"""Directory of the volume's own files, at the top."""
KNOWN_FEATURES: Final[frozenset[str]] = frozenset()
"""Features that change the meaning of a disc; a reader refuses others."""


UDF_REVISIONS: Final = {"2.50": 0x0250, "2.01": 0x0201}
"""By what a header calls them."""


class FileSource(msgspec.Struct, frozen=True, kw_only=True):
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

    @property
    def has_data(self) -> bool:
        """A file's first name: the one whose bytes are written."""
        return self.kind in ("file", "own") and self.link_of is None

    @property
    def key(self) -> bytes:
        """The path, apart from all others for the volume's own files."""
        return OWN_DIRECTORY + b"//" + self.path if self.kind == "own" else self.path


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
    udf: str = "2.50"
    """Or ``2.01``, which old systems and GRUB read: metadata is there only once."""
