"""``lost+found``: where names are given to what has none."""

from __future__ import annotations

import stat
from typing import Final

from hsmfs.fsck.names import Names
from hsmfs.fsck.subject import Subject
from hsmfs.namespace import schema
from hsmfs.types import ROOT_INODE

NAME: Final = b"lost+found"
TRIES_MAX: Final = 1000
MODE: Final = stat.S_IFDIR | 0o700


class LostFound:
    """The directory, made when it is first needed."""

    def __init__(self, subject: Subject, names: Names) -> None:
        self.subject = subject
        self.names = names
        self._ino = 0

    def place(self, ino: int, kind: int, wanted: bytes = b"") -> bytes:
        """Give an inode a name, ``#INO`` by default; the caller sets its link count."""
        folder = self._folder()
        name = self._free(folder, wanted or b"#%d" % ino)
        self._enter(folder, name, ino, kind)
        return NAME + b"/" + name

    def entry(self, name: bytes) -> int:
        """The inode of a name in it; 0 if there is none."""
        found = self._find(NAME)
        if not self._ino and (found == 0 or self.subject.kind_of(found) != stat.S_IFDIR):
            return 0
        value = self.subject.work.get(schema.entry_key(self._ino or found, name))
        return int.from_bytes(value[:8], "big") if value else 0

    def _find(self, name: bytes) -> int:
        value = self.subject.work.get(schema.entry_key(ROOT_INODE, name))
        return int.from_bytes(value[:8], "big") if value else 0

    def _free(self, folder: int, wanted: bytes) -> bytes:
        for number in range(TRIES_MAX):
            name = wanted if number == 0 else b"%s.%d" % (wanted, number)
            if self.subject.work.get(schema.entry_key(folder, name)) is None:
                return name
        return b"%s.%d" % (wanted, self.subject.next_ino)

    def _folder(self) -> int:
        if not self._ino:
            found = self._find(NAME)
            if found and self.subject.kind_of(found) == stat.S_IFDIR:
                self._ino = found
            else:
                self._ino = self._make()
        return self._ino

    def _make(self) -> int:
        record = self.subject.new_record(self.subject.number(), MODE, 0, 2)
        self.subject.made(record)
        self._enter(ROOT_INODE, self._free(ROOT_INODE, NAME), record.ino, stat.S_IFDIR)
        return record.ino

    def _enter(self, folder: int, name: bytes, ino: int, kind: int) -> None:
        self.subject.put_entry(folder, name, ino, kind, self.subject.number())
        self.names.moved(ino, kind, None, folder)
        above = self.subject.record(folder)
        assert above is not None
        above.nlink += kind == stat.S_IFDIR
        above.mtime_ns = above.ctime_ns = self.subject.now_ns
        self.subject.save(above)
