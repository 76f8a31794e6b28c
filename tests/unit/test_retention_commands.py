"""``hsm retention``, ``hold`` and ``log``: bad words, bad files, a system that never had any."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.volumes import stopped_system
from typer.testing import CliRunner

from hsmfs.namespace.engine import make_namespace
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.hsm import make_app

BAD_LISTS = ("17 99", "x 99 /a", "17 99x /a", "17  /a")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    config = stopped_system(tmp_path)
    store = LmdbStore(Path(config.namespace.path), 1 << 30)
    make_namespace(store, 0, 0, 0o755, 1)
    store.close()
    return tmp_path


def hsm(root: Path, *words: str) -> tuple[int, str]:
    """Exit status and what was said."""
    done = CliRunner().invoke(make_app(words), ["--config", str(root / "hsmfs.toml"), *words])
    return done.exit_code, f"{done.output}{done.exception or ''}"


@pytest.mark.parametrize("line", BAD_LISTS)
def test_a_bad_list_removes_nothing(root: Path, line: str) -> None:
    (root / "list").write_text(f"# comment\n\n{line}\n")
    status, said = hsm(root, "retention", "confirm", str(root / "list"))
    assert status == 1
    assert f"{root / 'list'}:3: found" in said
    assert "expected INODE DATE_NS PATH" in said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[retention]]\npath = '/a'\n", "missing required field `settle`"),
        ("retention = 1\n", "Expected `array`"),
        ("[[retention]]\npath = '/a'\nsettle = '1d'\nkeep = '15'\n", "keep of /a: found '15'"),
        ("[[retention]]\npath='/a'\nsettle='1d'\nkeep='1y'\nkept=1\n", "unknown field `kept`"),
        ("[[retention", "expected tables"),
    ],
)
def test_a_bad_file_sets_nothing(root: Path, text: str, told: str) -> None:
    (root / "rules.toml").write_text(text)
    status, said = hsm(root, "retention", "apply", str(root / "rules.toml"))
    assert status == 1
    assert told in said
    assert "rules.toml" in said


def test_a_system_without_any(root: Path) -> None:
    assert hsm(root, "retention", "ls")[1].startswith("none\n0 files wait")
    assert hsm(root, "hold", "ls")[0] == 0
    for words in (("log", "head"), ("log", "verify"), ("retention", "time")):
        status, said = hsm(root, *words)
        assert (status, "there is no" in said) == (1, True)


def test_wrong_words(root: Path) -> None:
    assert "expected N:SHA256" in hsm(root, "log", "verify", "--head", "3")[1]
    assert hsm(root, "log", "verify", "--disc", str(root / "hsmfs.toml"))[0] == 1
    assert "--reason of the hold" in hsm(root, "hold", "clear", str(root / "mnt" / "x"))[1]
    assert "found nothing" in hsm(
        root, "hold", "set", str(root / "mnt" / "x"), "--reason", "case"
    )[1]  # fmt: skip
    status, said = hsm(root, "retention", "set", str(root / "mnt"), "--keep", "15")
    assert (status, "--keep: found '15'" in said) == (1, True)
    status, said = hsm(root, "retention", "set", str(root / "mnt"), "--keep", "15y")
    assert (status, "start it: hsmfs" in said) == (1, True)
