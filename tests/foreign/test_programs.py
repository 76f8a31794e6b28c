"""Programs that are not ours drive the emulated library: mtx, sg3-utils, burners, the kernel.

All of it happens once, in one guest; the tests look at what came out.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from support.guest import ROOT, Done, log_in, needs, run_guest
from support.volumes import burn, content

from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.changer.emulated.formatting import SHARE_MIN, user_sectors
from hsmfs.changer.emulated.iscsi.target import NAME
from hsmfs.tools.voldump import sector_reader
from hsmfs.volume.layout import FileSource
from hsmfs.volume.reader import VolumeReader

pytestmark = pytest.mark.foreign
PORT = 3260
DISC_BYTES = 64 << 20
PROGRAMS = (
    "mtx", "sg_inq", "sg_vpd", "sg_readcap", "sg_get_config", "sg_modes", "sg_luns", "sg_turs",
    "cdrskin", "xorriso", "growisofs", "iscsistart",
)  # fmt: skip
FILES = [
    FileSource(path=f"study/image{number:02d}".encode(), ino=number, kind="file",
               size=100_000 + 7919 * number, mode=0o100644, data_version=1)
    for number in range(1, 31)
]  # fmt: skip


class Guest:
    """What the programs said, and the library they worked on."""

    def __init__(self, library: EmulatedLibrary, volume: Path, done: list[Done]) -> None:
        self.library = library
        self.volume = volume
        self.done = done

    def said(self, start: str) -> str:
        """Output of the first command that begins so; it must have ended well."""
        (one, *_more) = [one for one in self.done if one.command.startswith(start)]
        assert one.code == 0, f"{one.command}: {one.code}\n{one.output}"
        return one.output

    def disc(self, barcode: str) -> bytes:
        return self.library.image(barcode).read_bytes()


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    needs(*PROGRAMS)
    work = tmp_path_factory.mktemp("guest")
    library = EmulatedLibrary.create(
        work / "library", drives=2, slots=8, magazine_slots=4, disc_bytes=DISC_BYTES, mailslots=1
    )
    volume, tree = work / "volume.img", work / "tree"
    burn(volume, "foreign-000001", FILES)
    tree.mkdir()
    for source in FILES[:5]:
        (tree / source.path.decode().replace("/", "-")).write_bytes(content(source))
    serve = f"{sys.executable} -m hsmfs.tools.hsm emulator serve {work}/library"
    image = shlex.quote(str(volume))
    commands = [
        f"cd {ROOT}; {serve} --listen 127.0.0.1:{PORT} > {work}/serve.log 2>&1 & "
        f"for n in $(seq 900); do grep -q serving {work}/serve.log && break; sleep 0.1; done",
        *log_in(PORT, NAME),
        "mtx -f /dev/sg0 inquiry",
        "mtx -f /dev/sg0 status",
        "sg_luns /dev/sg0",
        "sg_inq /dev/sg1",
        "sg_vpd -p sn /dev/sg2",
        "sg_vpd -p di /dev/sg1",
        "sg_modes /dev/sg0",
        "mtx -f /dev/sg0 load 1 0",
        "mtx -f /dev/sg0 load 2 1",
        "sg_turs -n 3 /dev/sg1; sg_turs -n 3 /dev/sg2; true",
        "sg_get_config /dev/sg1",
        "sg_modes /dev/sg1",
        "sg_readcap /dev/sg1",
        f"cdrskin dev=/dev/sr0 -v -tao {image}",
        "growisofs -use-the-force-luke=notray -use-the-force-luke=spare:none "
        f"-use-the-force-luke=tty -Z /dev/sr1={image}",
        "sg_start --eject /dev/sg1; sg_start --load /dev/sg1; sg_turs -n 3 /dev/sg1; true",
        "sg_readcap /dev/sg1 #burned",
        "blockdev --rereadpt /dev/sr0 2>/dev/null; sha256sum /dev/sr0",
        "mkdir -p /mnt/disc; mount -t udf -o ro,bs=2048 /dev/sr0 /mnt/disc",
        "cd /mnt/disc && sha256sum study/*",
        "umount /mnt/disc",
        "sg_start --eject /dev/sg1; mtx -f /dev/sg0 unload 1 0",
        "sg_start --eject /dev/sg2; true",
        "mtx -f /dev/sg0 unload 2 1; mtx -f /dev/sg0 load 3 1; sg_turs -n 3 /dev/sg2; true",
        f"xorriso -outdev /dev/sr1 -map {tree} / -commit_eject none",
        "sg_start --eject /dev/sg2; mtx -f /dev/sg0 unload 3 1",
        "mtx -f /dev/sg0 load 8 1 && sg_turs -n 3 /dev/sg2; true",
        f"growisofs -use-the-force-luke=tty -Z /dev/sr1={image} #with spare areas",
        "sg_start --eject /dev/sg2; mtx -f /dev/sg0 unload 8 1",
        f"cd {ROOT}; {sys.executable} tests/foreign/guestdevices.py",
        "mtx -f /dev/sg0 status #after",
    ]
    done = run_guest(work / "uml", commands)
    (work / "said.txt").write_text("\n".join(f"$ {d.command}\n{d.output}-> {d.code}" for d in done))
    return Guest(library, volume, done)


def test_mtx_sees_moves_and_returns(guest: Guest) -> None:
    assert "Medium Changer" in guest.said("mtx -f /dev/sg0 inquiry")
    status = guest.said("mtx -f /dev/sg0 status")
    assert "2 Drives, 9 Slots ( 1 Import/Export )" in status
    assert "Storage Element 8:Full :VolumeTag=HSM00008" in status
    assert "IMPORT/EXPORT:Empty" in status and "Data Transfer Element 1:Empty" in status
    assert "done" in guest.said("mtx -f /dev/sg0 load 1 0")
    assert "done" in guest.said("sg_start --eject /dev/sg1; mtx -f /dev/sg0 unload 1 0")
    after = guest.said("mtx -f /dev/sg0 status #after")
    assert after.split() == status.split()


def test_sg3_utils_understand_every_answer(guest: Guest) -> None:
    assert len(re.findall(r"^    000[0-2]0{12}$", guest.said("sg_luns"), re.MULTILINE)) == 3
    assert "Unit serial number: EMUD0000" in guest.said("sg_inq /dev/sg1")
    assert "EMUD0001" in guest.said("sg_vpd -p sn")
    assert "T10 vendor identification" in guest.said("sg_vpd -p di")
    assert "Element address assignment" in guest.said("sg_modes /dev/sg0")
    features = guest.said("sg_get_config /dev/sg1")
    assert "Current profile: BD-R SRM" in features and "BD write feature" in features
    assert "too short" not in features
    assert "MM capabilities" in guest.said("sg_modes /dev/sg1")
    sectors = guest.volume.stat().st_size // 2048
    padded = sectors + -sectors % 32
    assert f"Number of logical blocks={padded}" in guest.said("sg_readcap /dev/sg1 #burned")


@pytest.mark.parametrize(
    ("program", "barcode"), [("cdrskin", "HSM00001"), ("growisofs", "HSM00002")]
)
def test_our_reader_finds_what_others_burned(guest: Guest, program: str, barcode: str) -> None:
    guest.said({"growisofs": "growisofs -use-the-force-luke=notray"}.get(program, f"{program} "))
    disc, volume = guest.disc(barcode), guest.volume.read_bytes()
    assert disc[: len(volume)] == volume and not any(disc[len(volume) :])
    assert (guest.library.path / "closed" / barcode).exists()
    with guest.library.image(barcode).open("rb") as file:
        reader = VolumeReader(sector_reader(file.fileno()), len(disc) // 2048)
        reader.prove_manifest()
        assert reader.header.label == "foreign-000001"
        for source in FILES:
            assert reader.read_file(source.path) == content(source)


def test_growisofs_gives_a_disc_its_spare_areas_and_burns_it(guest: Guest) -> None:
    """It formats, and leaves such a disc open, to be written on by pseudo-overwrite."""
    assert "pre-formatting blank BD-R" in guest.said("growisofs -use-the-force-luke=tty")
    disc, volume = guest.disc("HSM00008"), guest.volume.read_bytes()
    assert disc[: len(volume)] == volume and not any(disc[len(volume) :])
    sectors = int((guest.library.path / "formatted" / "HSM00008").read_text())
    assert sectors == user_sectors(DISC_BYTES // 2048, SHARE_MIN)
    assert not (guest.library.path / "formatted" / "HSM00002").exists()


def test_the_kernel_reads_what_cdrskin_burned_by_its_own_drivers(guest: Guest) -> None:
    whole = hashlib.sha256(guest.disc("HSM00001")).hexdigest()
    assert guest.said("blockdev").split()[0] == whole
    guest.said("mkdir -p /mnt/disc")
    told = dict(reversed(line.split()) for line in guest.said("cd /mnt/disc").splitlines())
    assert told == {s.path.decode(): hashlib.sha256(content(s)).hexdigest() for s in FILES}


def test_xorriso_burns_a_tree(guest: Guest) -> None:
    assert "completed successfully" in guest.said("xorriso ")
    disc = guest.disc("HSM00003")
    assert all(content(source) in disc for source in FILES[:5])
    assert (guest.library.path / "closed" / "HSM00003").exists()


@pytest.mark.parametrize("way", ["sg", "bsg", "sr", "sgio"])
def test_our_transports_burn_and_read_by_the_kernels_nodes(guest: Guest, way: str) -> None:
    if way == "sgio":
        pytest.importorskip("sgio", reason="cython-sgio is an optional package")
    found = json.loads(guest.said(f"cd {ROOT}; {sys.executable} tests/foreign/guestdevices"))
    assert isinstance(found[way], dict), found[way]
    assert found[way]["same"] and found[way]["state"] == "complete"
    assert found[way]["serial"] == "EMUD0000"
    assert "06/28/00" in found[way]["outcomes"] and "lost" not in found[way]["outcomes"]


def test_scan_finds_the_guests_devices(guest: Guest) -> None:
    found = json.loads(guest.said(f"cd {ROOT}; {sys.executable} tests/foreign/guestdevices"))
    assert 'changer = "sg:/dev/sg0"' in found["scan"] and not any(found["problems"])
    assert re.search(r'device = "sg:/dev/sg2"\nserial = "EMUD0001"', found["scan"])
