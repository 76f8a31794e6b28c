"""hsmd killed at each step of docs/crash-safety.md: one test a row, named after it.

Each kills hsmd exactly there, looks at what is left while nothing of it runs,
starts it again and sees it repaired as the row says.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.crashing import LARGE_BYTES, Crashing, running, state_of, volume_of
from support.crashpoints import (
    CLOSE_SESSION,
    MOVE_MEDIUM,
    WRITE_12,
    names_of_tests,
    rows_of,
    slug,
)
from support.sandboxes import Sandbox, differing

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    with running(tmp_path_factory.mktemp("rows") / "sb", "--slots", "96") as box:
        yield box
        box.stop()
        assert Sandbox.hsm(box, "fsck", check=False)["findings"] == []


@pytest.fixture
def box(shared: Crashing) -> Crashing:
    """For all tests; each brings it up if the one before failed."""
    shared.crash.path.unlink(missing_ok=True)
    shared.start()
    return shared


@pytest.mark.parametrize(
    "section",
    ["hsmfs", "hsmd", "Imports of discs of others", "hsm rebuild", "Emulated library", "Sandbox"],
)
def test_each_row_has_a_test(section: str) -> None:
    missing = {slug(row) for row in rows_of(section)} - names_of_tests()
    assert not missing, f"rows of docs/crash-safety.md without a test of their name: {missing}"


# -- burns -----------------------------------------------------------------------------------


def test_gather_before_the_plan_is_stored(box: Crashing) -> None:
    made = box.fresh()
    known = set(box.volumes())
    box.killed(box.migrating(made), "hsmfs.daemon.activevolume:PlanStore.save", "before")
    assert set(box.catalog().volumes) == known
    # the claims stand: who writes gets a file of his own
    first = next(iter(made))
    with open(first, "ab") as file:
        file.write(b"more")
    made[first] += b"more"
    assert box.cached("claim")
    box.start()
    box.until(lambda: not box.cached("claim"))
    box.until_premigrated(made)


@pytest.mark.parametrize("is_changed", [False, True], ids=["as it was", "a file changed"])
def test_plan_stored_before_the_burn(box: Crashing, is_changed: bool) -> None:
    made = box.fresh()
    box.killed(box.migrating(made), "catalog", "after", table="V", state="planned")
    (label,) = [v.label for v in box.catalog().volumes.values() if v.state == "planned"]
    assert (box.state / "catalog" / "plans" / f"{label}.plan").exists()
    assert not box.catalog().discs_of(label)
    if is_changed:
        first = next(iter(made))
        with open(first, "ab") as file:
            file.write(b"more")
        made[first] += b"more"
    box.start()
    found = box.until_premigrated(made)
    assert (found == label) != is_changed
    assert (label in box.volumes()) != is_changed


@pytest.mark.parametrize("writes", [0, 2], ids=["nothing written", "some written"])
def test_burn(box: Crashing, writes: int) -> None:
    made = box.fresh()
    box.killed(box.migrating(made), "scsi", "before", nth=writes + 1, op=WRITE_12)
    (disc,) = [d for d in box.catalog().discs.values() if d.state == "burning"]
    assert (box.image(disc.barcode).exists() and box.image(disc.barcode).stat().st_size > 0) == (
        writes > 0
    )
    box.start()
    assert box.until_premigrated(made) == disc.volume
    states = box.discs_of(disc.volume)
    assert sorted(states.values()) == (["suspect", "verified"] if writes else ["verified"])
    assert not writes or states[disc.barcode] == "suspect"


def test_burn_closed_before_it_is_recorded(box: Crashing) -> None:
    made = box.fresh()
    box.killed(box.migrating(made), "scsi", "after", op=CLOSE_SESSION, function=6)
    (disc,) = [d for d in box.catalog().discs.values() if d.state == "burning"]
    assert (box.root / "library" / "closed" / disc.barcode).exists()
    box.start()
    assert box.until_premigrated(made) == disc.volume
    assert box.discs_of(disc.volume).pop(disc.barcode) == "suspect"


@pytest.mark.parametrize("half", [False, True], ids=["not begun", "half-way"])
def test_burn_streamed_before_its_manifest_is_kept_for_later_discs(
    box: Crashing, half: bool
) -> None:
    made = box.fresh()
    manifests = box.state / "catalog" / "manifests"
    known = set(manifests.glob("*")) if manifests.exists() else set()
    if half:
        box.killed(box.migrating(made), "rename", "before", folder="manifests")
        (left,) = set(manifests.glob("*")) - known
        assert left.suffix == ".new"
    else:
        point = "hsmfs.daemon.ownfiles:OwnFiles.keep_manifest"
        box.killed(box.migrating(made), point, "before")
        assert (set(manifests.glob("*")) if manifests.exists() else set()) == known
    (disc,) = [d for d in box.catalog().discs.values() if d.state == "burning"]
    box.start()
    label = box.until_premigrated(made)
    assert label == disc.volume
    # the drive may have been behind, with nothing written: then it is used after all
    assert box.discs_of(label).get(disc.barcode) in ("suspect", "verified", None)
    assert set(manifests.glob("*")) - known == {manifests / f"{label}.jsonl.gz"}


def test_burn_done_before_verify(box: Crashing) -> None:
    made = box.fresh()
    box.killed(box.migrating(made), "catalog", "after", table="K", state="burned")
    (disc,) = [d for d in box.catalog().discs.values() if d.state == "burned"]
    assert {state_of(path) for path in made} == {"resident"}
    box.start()
    assert box.until_premigrated(made) == disc.volume
    assert box.discs_of(disc.volume) == {disc.barcode: "verified"}


def test_verified_before_copied(box: Crashing) -> None:
    made = box.fresh()
    box.killed(box.migrating(made), "hsmfs.daemon.fslink:FsLink.copied", "before")
    catalog = box.catalog()
    (record,) = [v for v in catalog.volumes.values() if v.state == "burned"]
    (disc,) = catalog.verified_discs(record.label)
    assert {state_of(path) for path in made} == {"resident"}
    box.start()
    assert box.until_premigrated(made) == record.label
    assert box.discs_of(record.label) == {disc.barcode: "verified"}


# -- fresh copies -------------------------------------------------------------------------------


def fresh_one(box: Crashing, label: str, *others: str) -> str:
    """The verified disc that there is in the end."""

    def found() -> list[str]:
        states = box.discs_of(label).items()
        return [code for code, state in states if state == "verified" and code not in others]

    (code,) = box.until(found)
    return str(code)


def test_image_read_for_a_fresh_copy(box: Crashing) -> None:
    made, label, old = box.migrated()
    before = box.image(old).read_bytes()
    quarantine = lambda: box.hsm("disc", "quarantine", old, check=False)  # noqa: E731
    box.killed(quarantine, "hsmfs.daemon.stagejob:StageJob._prove", "after")
    staged = box.state / "catalog" / "stage" / f"{label}.img"
    assert staged.stat().st_size == len(before)
    staged.write_bytes(b"not to be trusted")
    box.start()
    assert box.image(fresh_one(box, label)).read_bytes() == before
    box.until(lambda: not staged.exists())
    assert not differing(made)


def test_fresh_copy_burning(box: Crashing) -> None:
    made, label, old = box.migrated()
    before = box.image(old).read_bytes()
    quarantine = lambda: box.hsm("disc", "quarantine", old, check=False)  # noqa: E731
    box.killed(quarantine, "scsi", "after", nth=2, op=WRITE_12)
    (cut,) = [d.barcode for d in box.catalog().discs.values() if d.state == "burning"]
    box.start()
    fresh = fresh_one(box, label)
    assert box.discs_of(label) == {old: "damaged", cut: "suspect", fresh: "verified"}
    assert box.image(fresh).read_bytes() == before
    assert not differing(made)


def test_fresh_copy_burned_not_verified(box: Crashing) -> None:
    made, label, old = box.migrated()
    quarantine = lambda: box.hsm("disc", "quarantine", old, check=False)  # noqa: E731
    box.killed(quarantine, "catalog", "after", table="K", state="burned")
    (disc,) = [d.barcode for d in box.catalog().discs.values() if d.state == "burned"]
    box.start()
    assert fresh_one(box, label) == disc
    assert box.discs_of(label) == {old: "damaged", disc: "verified"}
    assert not differing(made)


def test_refresh_fresh_discs_verified_old_ones_not_retired(box: Crashing) -> None:
    made, label, old = box.migrated()
    refresh = lambda: box.hsm("volume", "refresh", label, "--no-wait", check=False)  # noqa: E731
    box.killed(refresh, "hsmfs.daemon.care:Care._retire", "before")
    catalog = box.catalog()
    assert catalog.volumes[label].refresh == [old]
    assert {d.state for d in catalog.discs_of(label)} == {"verified"}
    box.start()
    box.until(lambda: sorted(box.discs_of(label).values()) == ["retired", "verified"])
    assert box.discs_of(label)[old] == "retired"
    assert not differing(made)


# -- parity -----------------------------------------------------------------------------------


@pytest.fixture
def magazine(tmp_path: Path) -> Iterator[tuple[Crashing, dict[str, bytes]]]:
    """Two volumes, and parity as soon as a third one is proved."""
    with running(tmp_path / "sb", "--slots", "4") as box:
        box.stop()
        config = box.root / "hsmfs.toml"
        text = config.read_text().replace("magazine_slots = 2", "magazine_slots = 5")
        config.write_text(f"{text}\n[care]\nparity = 1\n")
        (box.state / "catalog").rename(box.state / "catalog of two magazines")
        box.start()
        made = box.migrated(2, 600_000)[0]
        made |= box.migrated(2, 600_000)[0]
        yield box, made


def add_blank(box: Crashing) -> None:
    """One more slot with a blank disc; hsmd does not run."""
    path = box.root / "library" / "library.json"
    facts = json.loads(path.read_text())
    facts["slots"].append("FRESH0")
    path.write_text(json.dumps(facts))


def parity_discs(box: Crashing) -> dict[str, str]:
    parity = [v["label"] for v in box.hsm("volume", "ls")["volumes"] if v["parity"]]
    found = {label: box.discs_of(label) for label in parity}
    return {
        code: label
        for label, discs in found.items()
        for code, state in discs.items()
        if state == "verified"
    }


@pytest.mark.parametrize("what", ["parity", "a lost volume"])
def test_parity_or_a_lost_volume_being_computed(
    magazine: tuple[Crashing, dict[str, bytes]], what: str
) -> None:
    box, made = magazine
    point = "hsmfs.daemon.parityset:FoldJob._fold"
    sums = box.state / "catalog" / "stage" / "parity" / "p"
    if what == "parity":
        third = box.fresh(2, 600_000)
        box.killed(box.migrating(third), point, "after")
        assert sums.stat().st_size
        sums.write_bytes(b"not to be trusted")
        box.start()
        made |= third
        box.until(lambda: parity_discs(box))
    else:
        made |= box.migrated(2, 600_000)[0]
        box.until(lambda: parity_discs(box))
    lost = next(d for d in box.discs() if d["volume"] in data_volumes(box))
    image = box.image(lost["barcode"])
    before = image.read_bytes()
    image.write_bytes(bytes(len(before)))
    if what == "parity":
        box.stop()
        add_blank(box)
        box.start()
        assert not differing(made)
    else:
        readers = reading(made)
        box.killed(lambda: None, point, "after")
        assert sums.stat().st_size
        add_blank(box)
        box.start()
        for reader in readers:
            reader.join(90)
        assert not differing(made)
    box.until(lambda: "verified" in box.discs_of(lost["volume"]).values())
    (code,) = [c for c, state in box.discs_of(lost["volume"]).items() if state == "verified"]
    assert box.image(code).read_bytes() == before


def data_volumes(box: Crashing) -> list[str]:
    return [v["label"] for v in box.hsm("volume", "ls")["volumes"] if not v["parity"]]


def reading(made: dict[str, bytes]) -> list[threading.Thread]:
    """Readers that wait until what they read is there."""
    readers = [threading.Thread(target=Path(path).read_bytes, daemon=True) for path in made]
    for reader in readers:
        reader.start()
    return readers


@pytest.mark.parametrize("is_cut", [False, True], ids=["before its burn", "in its burn"])
def test_parity_volumes_recorded_not_all_burned(
    magazine: tuple[Crashing, dict[str, bytes]], is_cut: bool
) -> None:
    box, made = magazine
    third = box.fresh(2, 600_000)
    if is_cut:
        box.killed(box.migrating(third), "catalog", "after", table="K", state="burning", volume=
                   f"{site(box)}-000004")  # fmt: skip
    else:
        box.killed(box.migrating(third), "catalog", "after", table="V", is_parity=True)
    (label,) = [v.label for v in box.catalog().volumes.values() if v.parity is not None]
    if is_cut:
        # as a burn that was cut after its first sectors
        (disc,) = box.catalog().discs_of(label)
        box.image(disc.barcode).write_bytes(bytes(64 * 2048))
        add_blank(box)
    box.start()
    box.until(lambda: parity_discs(box))
    (now,) = set(parity_discs(box).values())
    assert now != label
    assert box.volumes().get(label) == ("short" if is_cut else None)
    if is_cut:
        assert box.discs_of(label) == {disc.barcode: "suspect"}
    assert not differing(made | third)


def site(box: Crashing) -> str:
    return next(iter(box.volumes())).rpartition("-")[0]


# -- reclaim, recall, moves, identify ------------------------------------------------------------


def test_reclaim_before_the_old_volume_is_retired(box: Crashing) -> None:
    made, label, old = box.migrated()
    os.unlink(next(iter(made)))
    del made[next(iter(made))]
    reclaim = lambda: box.hsm("volume", "reclaim", label, "--no-wait", check=False)  # noqa: E731
    box.killed(reclaim, "hsmfs.daemon.reclaim:Reclaimer._retire", "before")
    catalog = box.catalog()
    assert catalog.volumes[label].state == "complete"
    assert all(label in volume_of(path) for path in made)
    assert all(len(volume_of(path).split()) == 2 for path in made)
    box.start()
    assert box.hsm("volume", "reclaim", label)["state"] == "done"
    assert box.volumes()[label] == "retired"
    assert box.state_of(old) == "retired"
    box.image(old).write_bytes(b"")
    assert not differing(made)


def test_recall(box: Crashing) -> None:
    made, _, _ = box.migrated(1, LARGE_BYTES)
    (path,) = made
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(Path(path).read_bytes()), daemon=True)
    box.killed(reader.start, "hsmfs.daemon.fslink:FsLink.landed", "after")
    assert state_of(path) == "recalling"
    assert box.cached("recall")
    assert not found
    box.start()
    reader.join(90)
    assert found == [made[path]]
    box.until(lambda: state_of(path) == "premigrated")
    assert not box.cached("recall")


@pytest.mark.parametrize("when", ["before", "after"])
def test_move_of_a_disc(box: Crashing, when: str) -> None:
    first, _, disc = box.migrated()
    second, _, _ = box.migrated()
    box.stop()
    send_home(box, disc)
    box.start()
    readers = []

    def read() -> None:
        readers.extend(reading(first))

    box.killed(read, "scsi", when, op=MOVE_MEDIUM)
    state = json.loads((box.root / "library" / "library.json").read_text())
    everywhere = state["slots"] + state["drive_discs"]
    assert everywhere.count(disc) == 1
    box.start()
    for reader in readers:
        reader.join(90)
    assert not differing(first | second)


def send_home(box: Crashing, barcode: str) -> None:
    """A disc that lies in a drive back to an empty slot, by hand; nothing runs."""
    path = box.root / "library" / "library.json"
    state = json.loads(path.read_text())
    if barcode in state["drive_discs"]:
        state["drive_discs"][state["drive_discs"].index(barcode)] = ""
        state["slots"][state["sources"].pop(barcode) - 0x400] = barcode
        path.write_text(json.dumps(state))


def known_copy(box: Crashing, old: str) -> str:
    """A disc that is a copy of a volume, and of which the catalog does not know."""
    code = [d["barcode"] for d in box.discs() if d["state"] == "blank"][-1]
    box.image(code).write_bytes(box.image(old).read_bytes())
    (box.root / "library" / "closed" / code).touch()
    return str(code)


def test_identify_before_the_disc_is_recorded(box: Crashing) -> None:
    _, label, old = box.migrated()
    code = known_copy(box, old)
    identify = lambda: box.hsm("disc", "identify", code, "--no-wait", check=False)  # noqa: E731
    box.killed(identify, "hsmfs.daemon.identifyjob:IdentifyJob._take_in", "before")
    assert box.catalog().discs[code].state == "blank"
    box.start()
    assert box.state_of(code) == "blank"
    box.hsm("disc", "identify", code)
    box.until(lambda: box.discs_of(label) == {old: "verified", code: "verified"})


def test_identify_recorded_before_verify(box: Crashing) -> None:
    _, label, old = box.migrated()
    code = known_copy(box, old)
    identify = lambda: box.hsm("disc", "identify", code, "--no-wait", check=False)  # noqa: E731
    box.killed(identify, "catalog", "after", table="K", state="burned")
    assert box.catalog().discs[code].state == "burned"
    box.start()
    box.until(lambda: box.discs_of(label) == {old: "verified", code: "verified"})
