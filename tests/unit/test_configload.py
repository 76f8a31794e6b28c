"""Each wrong configuration is answered with its line, its key and what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from msgspec import inspect

from hsmfs import configload, mountoptions
from hsmfs.config import Config
from hsmfs.configload import check_cache_paths, check_mount, check_paths, load, read_text
from hsmfs.configplace import dotted, line_of
from hsmfs.errors import ConfigError, Kind

MANUAL = Path(__file__).parents[2] / "docs" / "configure.md"
GOOD = """\
# A small system.
[site]
id = "test"

[namespace]
path = "/d/namespace"
commit_interval_ms = 50

[catalog]
path = "/d/catalog"

[[tier]]
name = "ssd"
path = "/d/ssd"

[[tier]]
name = "raid"
path = "/d/raid"
reserve_bytes = 0

[fuse]
mount = "/d/mnt"

[policy]
file = "/d/site.policy"

[[library]]
name = "robot"
kind = "emulated"
path = "/d/library"

[run]
path = "/d/run"
"""
TIER_KEYS = "name, path, reserve_bytes, capacity_bytes"
NAME = "a name of up to 64 letters, digits and . _ -"
BIND = 'HOST:PORT such as "127.0.0.1:9640", or ""'
APART = "directories apart from each other"

# what is replaced, by what, line, the rest of the message
TABLE = [
    ("reserve_bytes", "reserve_byte", 19,
     f"tier[1].reserve_byte: found unknown key 'reserve_byte', expected one of {TIER_KEYS}; "
     "did you mean 'reserve_bytes'?"),
    ("[fuse]", "[fuze]", 21, "fuze: found unknown key 'fuze', expected one of site, namespace, "
     "catalog, tier, fuse, policy, library, run, access, recall, burn, care, health, quota, log; "
     "did you mean 'fuse'?"),
    ('id = "test"', 'id = "test"\nquux = 1', 4,
     "site.quux: found unknown key 'quux', expected one of id; remove it"),
    ("commit_interval_ms = 50", 'commit_interval_ms = "50"', 7,
     'namespace.commit_interval_ms: found "50", expected an integer above 0'),
    ("commit_interval_ms = 50", "commit_interval_ms = 0", 7,
     "namespace.commit_interval_ms: found 0, expected an integer above 0"),
    ("commit_interval_ms = 50", "commit_interval_ms = true", 7,
     "namespace.commit_interval_ms: found true, expected an integer above 0"),
    ("reserve_bytes = 0", "reserve_bytes = -1", 19,
     "tier[1].reserve_bytes: found -1, expected an integer of at least 0"),
    ("reserve_bytes = 0", "reserve_bytes = 1.5", 19,
     "tier[1].reserve_bytes: found 1.5, expected an integer of at least 0"),
    ('mount = "/d/mnt"', 'mount = "/d/mnt"\nattr_timeout_s = nan', 23,
     "fuse.attr_timeout_s: found nan, expected a number of at least 0"),
    ('mount = "/d/mnt"', 'mount = "/d/mnt"\noptions = ["ro", "noatme"]', 23,
     "fuse.options[1]: found unknown option 'noatme', expected one of allow_other, fsname=NAME, "
     f"{', '.join(mountoptions.FLAGS)}; did you mean 'noatime'?"),
    ('mount = "/d/mnt"', 'mount = "/d/mnt"\noptions = "ro"', 23,
     'fuse.options: found "ro", expected a list of strings'),
    ('mount = "/d/mnt"', 'mount = "/d/mnt"\nallow_other = "yes"', 23,
     'fuse.allow_other: found "yes", expected true or false'),
    ('mount = "/d/mnt"', 'mount = "/d/mnt"\nsession = "fuse"', 23,
     'fuse.session: found "fuse", expected one of "native", "pyfuse3"'),
    ('id = "test"', 'id = "a b"', 3, f'site.id: found "a b", expected {NAME}'),
    ('id = "test"', "id = []", 3, f"site.id: found an empty list, expected {NAME}"),
    ('path = "/d/raid"\n', "", 16, "tier[1]: found no key 'path' in [tier[1]], expected path = a "
     "string between quotes; add it"),
    ('[run]\npath = "/d/run"\n', "", None,
     "found no key 'run' in the file, expected run = a table; add it"),
    ("[[library]]", "[library]", 27,
     "library: found a table, expected tables written as [[table]]"),
    ("[site]\n", 'site = "test"\n[log]\n', 4,
     "log.id: found unknown key 'id', expected one of level, json; remove it"),
    ("[site]\nid =", "site =", 2, 'site: found "test", expected a table'),
    ("id = ", "id ", 3, "found 'id \"test\"', expected valid TOML (Expected '=' after a key in a "
     "key/value pair)"),
    ('"/d/run"', '"/d/run', 33, "found 'path = \"/d/run', expected valid TOML (Illegal character "
     "'\\n')"),
    ('name = "raid"', 'name = "ssd"', 17, 'tier[1].name: found a second tier named "ssd", '
     "expected a name of its own for each tier"),
    ("/d/raid", "/d/ssd", 18, f'tier[1].path: found "/d/ssd", which is tier[0].path too, '
     f"expected {APART}"),
    ("/d/raid", "/d/x/../ssd/", 18, f'tier[1].path: found "/d/ssd", which is tier[0].path too, '
     f"expected {APART}"),
    ("/d/raid", "/d/ssd/raid", 18, f'tier[1].path: found "/d/ssd/raid", while tier[0].path is '
     f'"/d/ssd", expected {APART}'),
    ("/d/ssd", "/d", 14, f'tier[0].path: found "/d", while namespace.path is "/d/namespace", '
     f"expected {APART}"),
    ("/d/catalog", "/d/namespace", 10, 'catalog.path: found "/d/namespace", which is '
     f"namespace.path too, expected {APART}"),
    ("/d/mnt", "/d/ssd/mnt", 22, f'fuse.mount: found "/d/ssd/mnt", while tier[0].path is '
     f'"/d/ssd", expected {APART}'),
    ("/d/mnt", "/", 6, 'namespace.path: found "/d/namespace", expected a directory outside of the '
     "mount /; hsmfs would wait for itself"),
    ("/d/site.policy", "site.policy", 25, 'policy.file: found "site.policy", expected an absolute '
     'path such as "/srv/hsmfs"'),
    ('"/d/run"', '"/d/run"\nmetrics_hsmd_bind = "9640"', 34,
     f'run.metrics_hsmd_bind: found "9640", expected {BIND}'),
    ('"/d/run"', '"/d/run"\nmetrics_hsmd_bind = "h:70000"', 34,
     f'run.metrics_hsmd_bind: found "h:70000", expected {BIND}'),
    ('"/d/run"', '"/d/run"\nmetrics_hsmd_bind = "h:1"\nmetrics_hsmfs_bind = "h:1"', 34,
     'run.metrics_hsmd_bind: found "h:1", which is run.metrics_hsmfs_bind again, expected a port '
     "of its own"),
]  # fmt: skip


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hsmfs.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("old", "new", "line", "message"), TABLE)
def test_wrong_configurations(
    tmp_path: Path, old: str, new: str, line: int | None, message: str
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load(path)
    place = str(path) if line is None else f"{path}:{line}"
    assert str(caught.value) == f"{place}: {message}"
    assert caught.value.kind is Kind.CALLER


def test_no_tier_at_all(tmp_path: Path) -> None:
    text = re.sub(r"\[\[tier\]\].*?(?=\[fuse\])", "", GOOD, flags=re.DOTALL)
    with pytest.raises(ConfigError, match=r"found an empty list, expected at least one \[\[table"):
        load(written(tmp_path, "tier = []\n" + text))


def test_a_good_file(tmp_path: Path) -> None:
    config = load(written(tmp_path, GOOD))
    assert [tier.name for tier in config.tier] == ["ssd", "raid"]
    assert config.tier[0].reserve_bytes == 1 << 30
    assert (config.recall.recall_timeout_s, config.burn.attempts_max) == (600.0, 3)


def test_the_udf_revision_of_new_volumes(tmp_path: Path) -> None:
    assert load(written(tmp_path, GOOD)).burn.udf == "2.50"
    assert load(written(tmp_path, GOOD + '[burn]\nudf = "2.01"\n')).burn.udf == "2.01"
    with pytest.raises(ConfigError, match=r"burn\.udf.*2\.60"):
        load(written(tmp_path, GOOD + '[burn]\nudf = "2.60"\n'))


def test_whole_numbers_do_for_seconds(tmp_path: Path) -> None:
    config = load(written(tmp_path, GOOD + "[recall]\nhold_s = 3\n"))
    assert config.recall.hold_s == 3.0


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: found no such file, expected a file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="found Is a directory, expected a file that can be read"):
        load(tmp_path)
    path = tmp_path / "latin1.toml"
    path.write_bytes(b"# one\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin1\.toml:2: found byte 0xe9, expected text in UTF"):
        read_text(path)


def test_a_huge_file_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configload, "TEXT_BYTES_MAX", 10)
    with pytest.raises(ConfigError, match="expected at most 10"):
        load(written(tmp_path, GOOD))


# Directories


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A directory with everything that the configuration names."""
    for name in ("namespace", "catalog", "ssd", "raid", "mnt", "library", "run"):
        (tmp_path / name).mkdir()
    return written(tmp_path, GOOD.replace("/d/", f"{tmp_path}/"))


def problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check_paths(load(path), path)
    return str(caught.value)


def test_directories_that_exist(system: Path) -> None:
    config = load(system)
    check_paths(config, system)
    check_paths(config)
    check_mount(config, system)


def test_a_tier_that_is_missing(system: Path) -> None:
    raid = system.parent / "raid"
    raid.rmdir()
    assert problem(system) == (
        f"{system}:18: tier[1].path: found no directory {raid}, "
        f"expected a directory that exists; create it: mkdir -p {raid}"
    )
    with pytest.raises(ConfigError, match=r"^tier\[1\]\.path: found no directory"):
        check_paths(load(system))


def test_a_tier_that_is_a_file(system: Path) -> None:
    (system.parent / "raid").rmdir()
    (system.parent / "raid").write_text("")
    assert "raid, not a directory, expected a directory" in problem(system)


def test_two_tiers_on_one_directory_by_a_link(system: Path) -> None:
    raid, ssd = system.parent / "raid", system.parent / "ssd"
    raid.rmdir()
    raid.symlink_to(ssd)
    assert problem(system) == (
        f'{system}:18: tier[1].path: found the directory of tier "ssd" ({ssd}) again in {raid}, '
        "expected a directory of its own for each tier"
    )


def test_a_tier_that_cannot_be_written(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modes do not stop root, so the answer of the kernel is given here."""
    ssd = str(system.parent / "ssd")
    monkeypatch.setattr(os, "access", lambda path, mode: path != ssd)
    assert problem(system) == (
        f"{system}:14: tier[0].path: found {ssd}, not writable, expected a writable directory; "
        "check its owner, its mode and that its file system is not mounted read-only"
    )


def test_a_library_that_is_missing_does_not_concern_the_cache(system: Path) -> None:
    library = system.parent / "library"
    library.rmdir()
    check_cache_paths(load(system), system)
    assert problem(system).startswith(f"{system}:30: library[0].path: found no directory {library}")


def test_stores_may_be_created_later_where_their_parent_exists(system: Path) -> None:
    (system.parent / "namespace").rmdir()
    (system.parent / "catalog").rmdir()
    check_paths(load(system), system)
    system.write_text(system.read_text().replace("/catalog", "/no/catalog"))
    assert "catalog.path: found no directory" in problem(system)


def test_a_mount_point_that_is_missing(system: Path) -> None:
    mount = system.parent / "mnt"
    mount.rmdir()
    with pytest.raises(ConfigError) as caught:
        check_mount(load(system), system)
    assert str(caught.value) == (
        f"{system}:22: fuse.mount: found {mount}: No such file or directory, "
        f"expected a directory to mount on; run: mkdir -p {mount}"
    )
    mount.write_text("")
    with pytest.raises(ConfigError, match="mnt, not a directory, expected a directory to mount on"):
        check_mount(load(system), system)


# Lines of keys


@pytest.mark.parametrize(
    ("pointer", "line"),
    [
        (("a",), 1),
        (("text",), 2),
        (("hidden",), None),
        (("t",), 6),
        (("t", "x"), 7),
        (("t", "y"), 6),
        (("list", 0, "k"), 10),
        (("list", 1, "k"), 12),
        (("list", 1, "sub", "k"), 14),
        (("list", 1), 11),
        (("dotted", "key"), 5),
        (("t", "z"), 8),
    ],
)
def test_lines_of_keys(pointer: tuple[str | int, ...], line: int | None) -> None:
    text = (
        'a = 1\ntext = """\nhidden = 1\n"""\ndotted . key = 1\n[t] # table\nx = 1\n'
        '"z" = 1\n[[list]]\nk = 1\n[[ list ]]\nk = 2\n[list.sub]\nk = 3\n'
    )
    assert line_of(text, pointer) == line


def test_pointers_as_users_write_them() -> None:
    assert dotted(("tier", 0, "path")) == "tier[0].path"


# The manual


SCSI = """kind = "scsi"
changer = "sg:/dev/sg0"
[[library.drive]]
device = "sg:/dev/sg1"
[[library.drive]]
device = "iscsi://127.0.0.1:3260/iqn.2001-04.com.example:x/2"
element = 257
serial = "K9"
"""
EMULATED = 'kind = "emulated"\npath = "/d/library"\n'
SCSI_WRONG = [
    ('changer = "sg:/dev/sg0"\n', "", "library[0]: found no key 'changer' in [library[0]]"),
    ('"sg:/dev/sg0"', '"sg0"', 'library[0].changer: found "sg0", expected a device such as "sg:'),
    ('"sg:/dev/sg1"', '"sg:/dev/sg0"', 'drive[0].device: found "sg:/dev/sg0" again'),
    ("element = 257", "element = 70000", "drive[1].element: found 70000, expected an element"),
    ("element = 257", "element = -2", "drive[1].element: found -2, expected an element"),
    ('serial = "K9"', "serial = 9", "drive[1].serial: found 9, expected a string"),
    ('kind = "scsi"', 'kind = "scsi"\npath = "/d/l"', "found 'path' in a library of kind \"scsi\""),
    ('kind = "scsi"', 'kind = "emulated"', "library[0]: found no key 'path' in [library[0]]"),
    (SCSI[SCSI.index("[[") :], "", "library[0]: found no [[library.drive]], expected at least one"),
]


def test_a_scsi_library_needs_no_path(tmp_path: Path) -> None:
    assert EMULATED in GOOD
    (library,) = load(written(tmp_path, GOOD.replace(EMULATED, SCSI))).library
    assert [drive.element for drive in library.drive] == [-1, 257]


BY_HAND = """kind = "manual"
boxes = ["cabinet", "safe"]
[[library.drive]]
device = "sg:/dev/sr0"
"""
BY_HAND_WRONG = [
    ('["cabinet", "safe"]', '["safe", "safe"]', 'boxes[1]: found "safe" again, expected each box'),
    ('["cabinet", "safe"]', "[]", "library[0].boxes: found"),
    (
        "boxes",
        'path = "/d/l"\nboxes',
        "found both of [[library.drive]] and 'path', expected either",
    ),
    (BY_HAND[BY_HAND.index("[[") :], "", "found neither of [[library.drive]] and 'path'"),
    ("boxes", 'changer = "sg:/dev/sg0"\nboxes', "found 'changer' in a library of kind"),
    ('"sg:/dev/sr0"', '"/dev/sr0"', 'drive[0].device: found "/dev/sr0", expected a device'),
    ("boxes", "disc_bytes = 5\nboxes", "library[0].disc_bytes: found 5"),
]


def test_a_manual_library_needs_drives_alone(tmp_path: Path) -> None:
    (library,) = load(written(tmp_path, GOOD.replace(EMULATED, BY_HAND))).library
    assert library.boxes == ["cabinet", "safe"] and library.disc_bytes == 25_025_314_816


@pytest.mark.parametrize(("old", "new", "words"), BY_HAND_WRONG)
def test_wrong_manual_libraries(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in BY_HAND
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, GOOD.replace(EMULATED, BY_HAND.replace(old, new))))
    assert words in str(caught.value)


def test_no_parity_by_box(tmp_path: Path) -> None:
    text = GOOD.replace(EMULATED, BY_HAND) + "\n[care]\nparity = 1\n"
    with pytest.raises(ConfigError, match=r"care\.parity: found 1 in a manual library"):
        load(written(tmp_path, text))


@pytest.mark.parametrize(("old", "new", "words"), SCSI_WRONG)
def test_wrong_scsi_libraries(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in SCSI
    with pytest.raises(ConfigError) as error:
        load(written(tmp_path, GOOD.replace(EMULATED, SCSI.replace(old, new))))
    assert words in str(error.value)


def test_the_example_of_the_manual_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        load(written(tmp_path, block))


def test_the_manual_names_every_key() -> None:
    chapter = re.compile(r"^## \[+(\w+)\]+\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    chapters = dict(chapter.findall(MANUAL.read_text()))
    missing = []
    root = inspect.type_info(Config)
    assert isinstance(root, inspect.StructType)
    for table in root.fields:
        kind = table.type.item_type if isinstance(table.type, inspect.ListType) else table.type
        assert isinstance(kind, inspect.StructType)
        for field in kind.fields:
            if f"| `{field.name}` |" not in chapters.get(table.name, ""):
                missing.append(f"{table.name}.{field.name}")
    assert missing == []
