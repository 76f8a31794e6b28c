"""Parity over whole images, in files: members are folded in one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from hsmfs.errors import CallerError
from hsmfs.volume import parity

PIECE_BYTES: Final = 1 << 20


class Sums:
    """P and Q as files that grow; either may be left out.

    To make parity, fold in all members. To make lost members anew, fold in
    all others and what is there of P and Q, then ``solve``. Blocks; not for
    several threads at once.
    """

    def __init__(self, p: Path | None, q: Path | None) -> None:
        self.paths: Final = {"p": p, "q": q}
        self._files = {kind: path.open("w+b") for kind, path in self.paths.items() if path}

    def fold(self, index: int, offset: int, data: parity.Buffer) -> None:
        """Bytes of a member's image."""
        for kind, file in self._files.items():
            have = self._have(kind, offset, len(data))
            if kind == "p":
                parity.add(have, None, index, data)
            else:
                parity.add(None, have, index, data)
            os.pwrite(file.fileno(), have.data, offset)

    def fold_sum(self, kind: str, offset: int, data: parity.Buffer) -> None:
        """Bytes of a parity volume's P or Q."""
        have = self._have(kind, offset, len(data))
        parity.add(have, None, 0, data)
        os.pwrite(self._files[kind].fileno(), have.data, offset)

    def _have(self, kind: str, offset: int, size: int) -> parity.Block:
        have = np.zeros(size, dtype=np.uint8)
        found = os.pread(self._files[kind].fileno(), size, offset)
        have[: len(found)] = np.frombuffer(found, dtype=np.uint8)
        return have

    def solve(self, lost: Mapping[int, tuple[Path, int]], kinds: Sequence[str]) -> None:
        """Write the images of lost members, by index: path and bytes.

        ``kinds`` are the sums that P and Q volumes were folded into. Raises
        CallerError where more is lost than they can give.
        """
        longest = max((size for _, size in lost.values()), default=0)
        outs = {index: path.open("wb") for index, (path, _) in lost.items()}
        try:
            for offset in range(0, longest, PIECE_BYTES):
                size = min(PIECE_BYTES, longest - offset)
                p = self._have("p", offset, size).data if "p" in kinds else None
                q = self._have("q", offset, size).data if "q" in kinds else None
                for index, data in parity.recover(size, lost, {}, p, q).items():
                    left = max(0, lost[index][1] - offset)
                    outs[index].write(data[:left])
            for out in outs.values():
                out.flush()
                os.fsync(out.fileno())
        finally:
            for out in outs.values():
                out.close()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def drop(self) -> None:
        """Close, and remove the files."""
        self.close()
        for path in self.paths.values():
            if path is not None:
                path.unlink(missing_ok=True)


def choose_kinds(lost: int, there: Iterable[str]) -> list[str]:
    """Which of P and Q to use; CallerError where they are too few."""
    kinds = sorted(set(there))
    if lost > len(kinds):
        raise CallerError(
            f"{lost} members of the parity set are lost and {len(kinds)} of its parity volumes are "
            "there; expected no more losses than parity volumes"
        )
    return kinds[:lost]
