"""With parity in a magazine, lost discs are made anew, and readers get their data."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sandboxes import Sandbox, differing, write_files

pytestmark = pytest.mark.fuse
DISC = "20000000"
VOLUMES = 3


def started(root: Path, parity: int, by_pool: bool = False) -> Sandbox:
    box = Sandbox(root)
    slots = VOLUMES + parity
    words = ["--drives", "2", "--slots", str(slots)]
    box.start(*words, "--disc-bytes", DISC, "--pool-copies", "1")
    box.stop()
    config = root / "hsmfs.toml"
    one = re.sub("magazine_slots = .*", f"magazine_slots = {slots + parity}", config.read_text())
    config.write_text(one if by_pool else f"{one}\n[care]\nparity = {parity}\n")
    if by_pool:
        policy = root / "policy.hsm"
        policy.write_text(policy.read_text().replace("copies 1", f"copies 1; parity {parity}"))
    (root / "state" / "catalog").rename(root / "state" / "catalog of two magazines")
    box.start()
    return box


@pytest.fixture(params=[1, 2], ids=["P, by pool", "P and Q, by configuration"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Sandbox, int, Any]]:
    """A magazine whose discs are burned, parity last; and what was written."""
    parity: int = request.param
    box = started(tmp_path / "sb", parity, by_pool=parity == 1)
    try:
        made: dict[str, bytes] = {}
        for number in range(VOLUMES):
            made |= write_files(box.mnt / f"v{number}", 4, 200_000 * (number + 1), seed=number)
            box.migrate_and_release()
        box.until(lambda: len(verified(box)) == VOLUMES + parity)
        yield box, parity, made
    finally:
        box.stop()


def verified(box: Sandbox) -> dict[str, str]:
    """Volume and barcode."""
    return {d["volume"]: d["barcode"] for d in box.discs() if d["state"] == "verified"}


def image(box: Sandbox, barcode: str) -> Path:
    return box.root / "library" / "discs" / f"{barcode}.img"


def volumes(box: Sandbox) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = box.hsm("volume", "ls")["volumes"]
    return found


def data_volumes(box: Sandbox) -> list[str]:
    return sorted(v["label"] for v in volumes(box) if v["parity"] is None)


def test_destroyed_discs_are_made_anew(full: tuple[Sandbox, int, Any]) -> None:
    box, parity, made = full
    kinds = sorted(v["parity"]["kind"] for v in volumes(box) if v["parity"])
    assert kinds == ["p", "q"][:parity]
    before = {label: image(box, code).read_bytes() for label, code in verified(box).items()}
    lost = data_volumes(box)[:parity]
    # fresh discs come in for those that are lost
    for label in lost:
        code = verified(box)[label]
        image(box, code).write_bytes(bytes(len(before[label])))
    box.stop()
    for number in range(parity):
        add_blank(box, f"FRESH{number}")
    box.start()
    assert not differing(made)
    box.until(lambda: set(lost) <= set(verified(box)))
    for label in lost:
        assert image(box, verified(box)[label]).read_bytes() == before[label]
    assert {d["state"] for d in box.discs() if d["barcode"] not in verified(box).values()} == {
        "damaged"
    }


def add_blank(box: Sandbox, barcode: str) -> None:
    """One more slot with a blank disc, at the end of the library."""
    import json

    path = box.root / "library" / "library.json"
    facts = json.loads(path.read_text())
    facts["slots"].append(barcode)
    path.write_text(json.dumps(facts))


def rebuild(label: str, into: Path, images: list[Path]) -> subprocess.CompletedProcess[str]:
    words = ["volume", "rebuild", "--label", label, "--into", str(into), *map(str, images)]
    return subprocess.run(
        [sys.executable, "-m", "hsmfs.tools.hsm", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_any_lost_images_are_made_anew_by_hand(
    full: tuple[Sandbox, int, Any], tmp_path: Path
) -> None:
    box, parity, _ = full
    images = {label: image(box, code) for label, code in verified(box).items()}
    for number, lost in enumerate(itertools.combinations(sorted(images), parity)):
        rest = [path for label, path in images.items() if label not in lost]
        for label in lost:
            if label not in data_volumes(box):
                continue
            out = tmp_path / f"{number}-{label}"
            done = rebuild(label, out, rest)
            assert done.returncode == 0, done.stderr
            sectors = out.stat().st_size
            assert out.read_bytes() == images[label].read_bytes()[:sectors]
    first, *others = data_volumes(box)
    done = rebuild(first, tmp_path / "no", [images[others[0]]])
    assert done.returncode == 1
    assert "found no parity volume" in done.stderr
    too_few = [path for label, path in images.items() if label not in (first, *others)]
    done = rebuild(first, tmp_path / "no", too_few)
    assert done.returncode == 1
    assert "expected no more losses than parity volumes" in done.stderr
    assert not (tmp_path / "no").exists()


def parity_kinds(box: Sandbox) -> list[str]:
    """Of the parity volumes that have a proved disc."""
    proved = verified(box)
    return sorted(v["parity"]["kind"] for v in volumes(box) if v["parity"] and v["label"] in proved)


def test_a_set_without_its_q_gets_it(tmp_path: Path) -> None:
    """As a restart leaves it that cut Q's burn: P is proved, and Q is not recorded."""
    box = started(tmp_path / "sb", 1)
    try:
        for number in range(VOLUMES):
            write_files(box.mnt / f"v{number}", 4, 200_000 * (number + 1), seed=number)
            box.migrate_and_release()
        box.until(lambda: parity_kinds(box) == ["p"])
        box.stop()
        config = box.root / "hsmfs.toml"
        config.write_text(config.read_text().replace("parity = 1", "parity = 2"))
        add_blank(box, "FRESH0")
        box.start()
        box.until(lambda: parity_kinds(box) == ["p", "q"])
        assert len({v["parity"]["set"] for v in volumes(box) if v["parity"]}) == 1
        images = {label: image(box, code) for label, code in verified(box).items()}
        first, second, *_ = data_volumes(box)
        rest = [path for label, path in images.items() if label not in (first, second)]
        out = tmp_path / "anew"
        done = rebuild(second, out, rest)
        assert done.returncode == 0, done.stderr
        made = out.read_bytes()
        assert made == images[second].read_bytes()[: len(made)]
    finally:
        box.stop()


def test_killed_while_p_burns(tmp_path: Path) -> None:
    """The cut disc is suspect; parity is computed anew and goes to a fresh one."""
    box = started(tmp_path / "sb", 1)
    try:
        for number in range(VOLUMES):
            write_files(box.mnt / f"v{number}", 4, 1_000_000 * (number + 1), seed=number)
            box.migrate_and_release()
        blank = next(d["barcode"] for d in box.discs() if d["volume"] in ("", None))
        box.until(lambda: image(box, blank).exists() and image(box, blank).stat().st_size)
        box.kill("hsmd")
        box.stop()
        add_blank(box, "FRESH0")
        box.start()
        box.until(lambda: parity_kinds(box) == ["p"])
        box.stop()
        assert box.hsm("fsck", check=False)["findings"] == []
    finally:
        box.stop()


def test_by_hand_and_killed(tmp_path: Path) -> None:
    box = started(tmp_path / "sb", 0)
    try:
        made = write_files(box.mnt / "a", 3, 300_000)
        box.migrate_and_release()
        done = box.hsm("magazine", "parity", "M01", check=False)
        assert done["state"] == "failed"
        assert "expected 2 to 255" in done["errors"][0]
        made |= write_files(box.mnt / "b", 3, 3_000_000, seed=2)
        box.migrate_and_release()
        box.hsm("magazine", "parity", "M01", "--no-wait")
        box.kill("hsmd")
        box.start()
        if len(verified(box)) < 3:
            box.hsm("magazine", "parity", "M01", check=False)
        box.until(lambda: len(verified(box)) == 3)
        assert [v["parity"]["kind"] for v in volumes(box) if v["parity"]] == ["p"]
        assert not differing(made)
        box.stop()
        assert box.hsm("fsck", check=False)["findings"] == []
    finally:
        box.stop()
