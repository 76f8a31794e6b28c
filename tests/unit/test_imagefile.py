"""Volumes into files: the same bytes, whoever copies them."""

from __future__ import annotations

import errno
import io
import os
import random
from pathlib import Path

import pytest

from hsmfs.errors import CallerError
from hsmfs.volume import imagefile
from hsmfs.volume.directfile import write_stream
from hsmfs.volume.imagefile import write_known
from hsmfs.volume.layout import FileSource, VolumeHeader, plan_volume
from hsmfs.volume.writer import VolumeWriter

HEADER = VolumeHeader(label="HSM000001", site="s", pool="p", created_ns=1)
SIZES = (0, 1, 2048, 5000, 300_000, 3 << 20, 700)
FILES = [FileSource(path=b"d/%d" % n, ino=2 + n, size=size) for n, size in enumerate(SIZES)]
VOID = FILES[5]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for entry in FILES:
        (tmp_path / str(entry.ino)).write_bytes(random.Random(entry.ino).randbytes(entry.size))
    return tmp_path


def streamed(cache: Path) -> tuple[bytes, VolumeWriter]:
    """The image, one file of which could not be read."""

    def source(entry: FileSource) -> io.FileIO:
        if entry is VOID:
            raise PermissionError
        return (cache / str(entry.ino)).open("rb", buffering=0)

    writer = VolumeWriter(plan_volume(HEADER, FILES, 1 << 20), cache)
    with (cache / "streamed").open("wb") as out:
        size = write_stream(out.fileno(), writer.stream(source))
    image = (cache / "streamed").read_bytes()
    assert len(image) == size
    assert list(writer.results.void_entries()) == [VOID]
    return image, writer


def known(cache: Path, writer: VolumeWriter) -> bytes:
    def source(entry: FileSource) -> int:
        assert entry is not VOID and entry.size
        return os.open(cache / str(entry.ino), os.O_RDONLY)

    with (cache / "known").open("w+b") as out:
        layout = plan_volume(HEADER, FILES, 1 << 20)
        write_known(out.fileno(), layout, writer.results, source, cache)
    return (cache / "known").read_bytes()


def test_a_volume_of_known_hashes_has_the_same_bytes(cache: Path):
    image, writer = streamed(cache)
    assert known(cache, writer) == image


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_also_where_the_kernel_does_not_copy(
    cache: Path, number: int, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> int:
        raise OSError(number, "no")

    image, writer = streamed(cache)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(imagefile, "CACHED_BYTES", 1000)
    assert known(cache, writer) == image


def test_a_source_that_is_shorter_than_it_was_is_told(cache: Path):
    _, writer = streamed(cache)
    os.truncate(cache / "6", 299_999)
    with pytest.raises(CallerError, match="d/4: found 299999 bytes, expected 300000"):
        known(cache, writer)
