"""Streams into files without the page cache: the same bytes whatever disk and chunks."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmfs.volume import directfile
from hsmfs.volume.directfile import BUFFER_BYTES, write_stream

DISKS = ["/var/tmp", "/dev/shm"]
"""Of a disk and of memory: not each takes direct writes."""


def pieces(sizes: list[int]) -> list[bytes]:
    return [os.urandom(size) for size in sizes]


@pytest.mark.parametrize("disk", DISKS)
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 5000), st.sampled_from([2048, BUFFER_BYTES, BUFFER_BYTES + 2048])),
        max_size=6,
    )
)
def test_any_chunks(disk: str, sizes: list[int]) -> None:
    chunks = pieces(sizes)
    path = Path(disk) / f"hsmfs-direct-{os.getpid()}"
    try:
        with path.open("wb") as out:
            before = fcntl.fcntl(out.fileno(), fcntl.F_GETFL)
            assert write_stream(out.fileno(), chunks) == sum(sizes)
            assert fcntl.fcntl(out.fileno(), fcntl.F_GETFL) == before
        assert path.read_bytes() == b"".join(chunks)
    finally:
        path.unlink()


def test_a_disk_that_takes_no_direct_write_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, data: bytes, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return pwrite(fd, data, offset)

    pwrite = os.pwrite
    monkeypatch.setattr(directfile.os, "pwrite", refuse)
    chunks = pieces([BUFFER_BYTES, 3000, BUFFER_BYTES])
    with (tmp_path / "image").open("wb") as out:
        write_stream(out.fileno(), chunks)
    assert (tmp_path / "image").read_bytes() == b"".join(chunks)


def test_a_full_disk_is_told_and_leaves_no_thread() -> None:
    threads = threading.active_count()
    with open("/dev/full", "wb") as out, pytest.raises(OSError, match="No space"):
        write_stream(out.fileno(), (bytes(BUFFER_BYTES) for _ in range(100)))
    assert threading.active_count() == threads


def test_a_stream_that_fails_leaves_no_thread(tmp_path: Path) -> None:
    def stream() -> Iterator[bytes]:
        yield bytes(10)
        raise ValueError("torn")

    threads = threading.active_count()
    with (tmp_path / "image").open("wb") as out, pytest.raises(ValueError, match="torn"):
        write_stream(out.fileno(), stream())
    assert threading.active_count() == threads
