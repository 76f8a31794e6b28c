"""A place for each test of file system behaviour: ext4 and hsmfs by each session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import count

import pytest
from fuse.conftest import made_system
from support.places import PLACES, REFERENCE, Place

_numbers = count()


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """One mount for all tests of a module; what they made goes with it."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == REFERENCE:
        yield Place(REFERENCE, str(directory))
        shutil.rmtree(directory)
        return
    with made_system(directory) as system:
        system.configure(fuse=f'session = "{request.param}"')
        system.start()
        yield Place(request.param, str(system.mnt))


@pytest.fixture
def here(place: Place) -> Iterator[Place]:
    """An empty directory that everybody may use; the working directory, so that
    tests use short names and need no rights above it."""
    home = os.open(".", os.O_PATH | os.O_DIRECTORY)
    path = f"{place.root}/{next(_numbers)}"
    os.mkdir(path)
    os.chmod(path, 0o777)
    os.chdir(path)
    umask = os.umask(0o022)
    try:
        yield place._replace(root=path)
    finally:
        os.umask(umask)
        os.fchdir(home)
        os.close(home)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a place mounts a file system."""
    for item in items:
        if "place" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.fuse)
