"""Reads the configuration file and says precisely what is wrong with it.

``load`` checks form, types and what keys say of each other; ``check_paths``
asks the file system.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from hsmfs import mountoptions
from hsmfs.config import DEVICE, DEVICE_FORMS, Config, Library, did_you_mean
from hsmfs.configplace import Pointer, dotted, line_of
from hsmfs.errors import ConfigError

TEXT_BYTES_MAX: Final = 4 * 1024 * 1024
PORT_MAX: Final = 65_535
_LIBRARY_KEYS: Final = {
    "emulated": ("path", ("changer", "drive")),
    "scsi": ("changer", ("path",)),
    "manual": ("", ("changer",)),
}
"""By kind: the key that must be there, and those of other kinds."""

_POINTER: Final = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_STEP: Final = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>\d+)\]")
_MISSING: Final = re.compile(r"^Object missing required field `(?P<key>[^`]+)`")
_TOML_PLACE: Final = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|end of document)\)$")


def load(path: Path) -> Config:
    """The configuration in a TOML file; ``ConfigError`` names line, key, found, expected."""
    text = read_text(path)
    return _Loader(path, text, _parsed(path, text)).config()


def read_text(path: Path) -> str:
    """The text of a configuration or policy file, or an error that says what to do."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            str(path), "no such file", "a file", "create it or name another"
        ) from None
    except OSError as error:
        found = error.strerror or "an error"
        raise ConfigError(str(path), found, "a file that can be read") from None
    if len(content) > TEXT_BYTES_MAX:
        raise ConfigError(str(path), f"{len(content)} bytes", f"at most {TEXT_BYTES_MAX}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"{path}:{content.count(bytes([10]), 0, error.start) + 1}"
        found = f"byte 0x{content[error.start]:02x}"
        raise ConfigError(where, found, "text in UTF-8", "save the file as UTF-8") from None


def check_paths(config: Config, path: Path | None = None) -> None:
    """All directories that the configuration names; ``path`` adds line numbers to errors."""
    check_cache_paths(config, path)
    check_library_paths(config, path)


def check_cache_paths(config: Config, path: Path | None = None) -> None:
    """What hsmfs needs: tiers, namespace and run directories."""
    checker = _PathChecker(path)
    first_of: dict[tuple[int, int], int] = {}
    for number, tier in enumerate(config.tier):
        pointer = ("tier", number, "path")
        identity = checker.directory(pointer, tier.path)
        first = first_of.setdefault(identity, number)
        if first != number:
            other = config.tier[first]
            found = f'the directory of tier "{other.name}" ({other.path}) again in {tier.path}'
            raise checker.error(pointer, found, "a directory of its own for each tier")
    checker.directory_or_parent(("namespace", "path"), config.namespace.path)
    checker.directory_or_parent(("run", "path"), config.run.path)


def check_library_paths(config: Config, path: Path | None = None) -> None:
    """What hsmd needs besides: libraries and the catalog."""
    checker = _PathChecker(path)
    for number, library in enumerate(config.library):
        if library.path:
            checker.directory(("library", number, "path"), library.path)
    checker.directory_or_parent(("catalog", "path"), config.catalog.path)


def check_mount(config: Config, path: Path | None = None) -> None:
    """The mount point, for hsmfs before it mounts (anybody else might wait for hsmfs)."""
    checker = _PathChecker(path)
    pointer = ("fuse", "mount")
    mount = config.fuse.mount
    try:
        is_directory = stat.S_ISDIR(os.stat(mount).st_mode)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            found = f"{mount}, left mounted by a file system that has ended"
            todo = f"run: fusermount3 -u {mount}"
        else:
            found, todo = f"{mount}: {error.strerror}", f"run: mkdir -p {mount}"
        raise checker.error(pointer, found, "a directory to mount on", todo) from None
    if not is_directory:
        raise checker.error(pointer, f"{mount}, not a directory", "a directory to mount on")


# Form and types


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        line = int(place["line"]) if place and place["line"] else text.rstrip().count("\n") + 1
        content = (text.split("\n")[line - 1 : line] or [""])[0].strip()
        problem = _TOML_PLACE.sub("", str(error))
        raise ConfigError(f"{path}:{line}", repr(content), f"valid TOML ({problem})") from None
    except RecursionError:
        raise ConfigError(str(path), "tables too deep in each other", "valid TOML") from None


class _Loader:
    def __init__(self, path: Path, text: str, data: dict[str, Any]) -> None:
        self._path = path
        self._text = text
        self._data = data

    def config(self) -> Config:
        root = inspect.type_info(Config)
        self._check_known(root, self._data, ())
        try:
            config = msgspec.convert(self._data, Config)
        except msgspec.ValidationError as error:
            raise self._invalid(root, str(error)) from None
        for check in (
            self._unique_names,
            self._libraries,
            self._absolute,
            self._apart,
            self._binds,
            self._mount_options,
        ):
            check(config)
        return config

    def error(self, pointer: Pointer, found: str, expected: str, todo: str = "") -> ConfigError:
        """An error at a key of this file; the caller raises it."""
        return ConfigError(_where(self._path, self._text, pointer), found, expected, todo)

    def _check_known(self, kind: inspect.Type, value: Any, pointer: Pointer) -> None:
        """Misspelt keys first, and numbers that are none: msgspec tells less of them."""
        if isinstance(kind, inspect.StructType) and isinstance(value, dict):
            fields = {field.encode_name: field.type for field in kind.fields}
            for key, inner in value.items():
                if key not in fields:
                    raise self._unknown_key((*pointer, key), list(fields))
                self._check_known(fields[key], inner, (*pointer, key))
        elif isinstance(kind, inspect.ListType) and isinstance(value, list):
            for number, inner in enumerate(value):
                self._check_known(kind.item_type, inner, (*pointer, number))
        elif isinstance(value, float) and not math.isfinite(value):
            raise self.error(pointer, str(value), _expected(kind))

    def _unknown_key(self, pointer: Pointer, known: list[str]) -> ConfigError:
        key = str(pointer[-1])
        expected = f"one of {', '.join(known)}"
        todo = did_you_mean(key, known) or "remove it"
        return self.error(pointer, f"unknown key '{key}'", expected, todo)

    def _invalid(self, root: inspect.Type, message: str) -> ConfigError:
        pointer = _pointer(message)
        missing = _MISSING.match(message)
        if missing is not None:
            key = missing["key"]
            kind = _type_at(root, (*pointer, key))
            table = "the file" if not pointer else f"[{dotted(pointer)}]"
            return self.error(
                pointer, f"no key '{key}' in {table}", f"{key} = {_expected(kind)}", "add it"
            )
        found = _show(_value_at(self._data, pointer))
        return self.error(pointer, found, _expected(_type_at(root, pointer)))

    # What keys say of each other

    def _unique_names(self, config: Config) -> None:
        tiers = [tier.name for tier in config.tier]
        libraries = [library.name for library in config.library]
        for table, names in (("tier", tiers), ("library", libraries)):
            for number, name in enumerate(names):
                if name in names[:number]:
                    found = f"a second {table} named {_show(name)}"
                    raise self.error(
                        (table, number, "name"), found, f"a name of its own for each {table}"
                    )

    def _libraries(self, config: Config) -> None:
        """Each kind has keys of its own."""
        for number, library in enumerate(config.library):
            pointer: Pointer = ("library", number)
            needed, foreign = _LIBRARY_KEYS[library.kind]
            if library.kind == "manual":
                self._manual(pointer, library, config.care.parity)
            if needed and not getattr(library, needed):
                found = f"no key '{needed}' in [{dotted(pointer)}]"
                raise self.error(pointer, found, f"{needed} = a string between quotes", "add it")
            for key in foreign:
                if getattr(library, key):
                    found = f"'{key}' in a library of kind \"{library.kind}\""
                    raise self.error((*pointer, key), found, "keys of its kind", "remove it")
            if library.kind == "scsi" or library.drive:
                self._devices(pointer, library)

    def _manual(self, pointer: Pointer, library: Library, parity: int) -> None:
        """Either devices or emulated drives; each box once; nothing that needs full magazines."""
        if bool(library.path) == bool(library.drive):
            found = "both" if library.path else "neither"
            expected = "either [[library.drive]] or 'path' (of emulated drives)"
            raise self.error(pointer, f"{found} of [[library.drive]] and 'path'", expected)
        for index, box in enumerate(library.boxes):
            if box in library.boxes[:index]:
                raise self.error((*pointer, "boxes", index), f"{_show(box)} again", "each box once")
        if parity:
            found = f"{parity} in a manual library, whose boxes are never full"
            raise self.error(("care", "parity"), found, "0")

    def _devices(self, pointer: Pointer, library: Library) -> None:
        """Devices and elements of a SCSI library, each once."""
        if not library.drive:
            found = f"no [[{pointer[0]}.drive]]"
            raise self.error(pointer, found, "at least one drive", "run: hsm library scan")
        devices = [((*pointer, "changer"), library.changer)] if library.changer else []
        for number, drive in enumerate(library.drive):
            devices.append(((*pointer, "drive", number, "device"), drive.device))
            elements = [other.element for other in library.drive[:number] if other.element >= 0]
            if drive.element < -1 or drive.element > 0xFFFF or drive.element in elements:
                where = (*pointer, "drive", number, "element")
                raise self.error(where, str(drive.element), "an element address of its own")
        for index, (where, device) in enumerate(devices):
            if DEVICE.fullmatch(device) is None:
                raise self.error(where, _show(device), DEVICE_FORMS)
            if any(device == other for _where, other in devices[:index]):
                raise self.error(where, f"{_show(device)} again", "a device of its own for each")

    def _absolute(self, config: Config) -> None:
        for pointer, value in _paths(config):
            if not os.path.isabs(value) or "\0" in value:
                expected = 'an absolute path such as "/srv/hsmfs"'
                raise self.error(pointer, _show(value), expected)

    def _apart(self, config: Config) -> None:
        """No directory twice, nothing below the mount, nothing inside a tier."""
        mount = os.path.normpath(config.fuse.mount)
        owned: list[tuple[Pointer, str]] = []
        for pointer, value in _owned_paths(config):
            own = os.path.normpath(value)
            if _below(own, mount):
                expected = f"a directory outside of the mount {mount}"
                raise self.error(pointer, _show(value), expected, "hsmfs would wait for itself")
            for other_pointer, other in owned:
                self._check_apart(pointer, own, other_pointer, other)
            owned.append((pointer, own))
        for pointer, own in owned:
            self._check_apart(("fuse", "mount"), mount, pointer, own)

    def _check_apart(self, pointer: Pointer, own: str, other_pointer: Pointer, other: str) -> None:
        inside = _inside_tier(own, other_pointer, other) or _inside_tier(other, pointer, own)
        if own == other:
            found = f"{_show(own)}, which is {dotted(other_pointer)} too"
        elif inside:
            found = f"{_show(own)}, while {dotted(other_pointer)} is {_show(other)}"
        else:
            return
        raise self.error(pointer, found, "directories apart from each other")

    def _binds(self, config: Config) -> None:
        seen: dict[str, str] = {}
        for key in ("metrics_hsmfs_bind", "metrics_hsmd_bind"):
            value: str = getattr(config.run, key)
            host, _, port = value.rpartition(":")
            if not value:
                continue
            if not host or not port.isdecimal() or not 0 < int(port) <= PORT_MAX:
                expected = 'HOST:PORT such as "127.0.0.1:9640", or ""'
                raise self.error(("run", key), _show(value), expected)
            if value in seen:
                found = f"{_show(value)}, which is run.{seen[value]} again"
                raise self.error(("run", key), found, "a port of its own")
            seen[value] = key

    def _mount_options(self, config: Config) -> None:
        for number, word in enumerate(config.fuse.options):
            wrong = mountoptions.problem(word)
            if wrong is not None:
                raise self.error(("fuse", "options", number), *wrong)


def _paths(config: Config) -> Iterator[tuple[Pointer, str]]:
    yield from _owned_paths(config)
    yield ("fuse", "mount"), config.fuse.mount
    yield ("policy", "file"), config.policy.file
    for number, library in enumerate(config.library):
        if library.iscsi_secret_file:
            yield ("library", number, "iscsi_secret_file"), library.iscsi_secret_file
    yield ("run", "path"), config.run.path


def _owned_paths(config: Config) -> Iterator[tuple[Pointer, str]]:
    yield ("namespace", "path"), config.namespace.path
    yield ("catalog", "path"), config.catalog.path
    for number, tier in enumerate(config.tier):
        yield ("tier", number, "path"), tier.path
    for number, library in enumerate(config.library):
        if library.path:
            yield ("library", number, "path"), library.path


def _inside_tier(path: str, pointer: Pointer, directory: str) -> bool:
    return pointer[0] == "tier" and _below(path, directory)


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


# The words of errors


def _where(path: Path, text: str, pointer: Pointer) -> str:
    line = line_of(text, pointer)
    place = str(path) if line is None else f"{path}:{line}"
    return f"{place}: {dotted(pointer)}" if pointer else place


def _pointer(message: str) -> Pointer:
    match = _POINTER.search(message)
    steps = _STEP.finditer(match["path"]) if match else ()
    return tuple(int(step["index"]) if step["index"] else step["key"] for step in steps)


def _type_at(kind: inspect.Type, pointer: Pointer) -> inspect.Type:
    for step in pointer:
        if isinstance(kind, inspect.StructType):
            kind = next(field.type for field in kind.fields if field.encode_name == step)
        elif isinstance(kind, inspect.ListType):
            kind = kind.item_type
    return kind


def _value_at(value: Any, pointer: Pointer) -> Any:
    for step in pointer:
        value = value[step]
    return value


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType():
            return "an integer" + _bounds(kind.gt, kind.ge)
        case inspect.FloatType():
            return "a number" + _bounds(kind.gt, kind.ge)
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return "one of " + ", ".join(_show(value) for value in kind.values)
        case inspect.StrType() if kind.pattern:
            return "a name of up to 64 letters, digits and . _ -"
        case inspect.StrType():
            return "a string between quotes"
        case inspect.ListType() if isinstance(kind.item_type, inspect.StrType):
            return "a list of strings"
        case inspect.ListType():
            return "at least one [[table]]" if kind.min_length else "tables written as [[table]]"
        case _:
            return "a table"


def _bounds(above: float | None, least: float | None) -> str:
    if above is not None:
        return f" above {above:g}"
    return "" if least is None else f" of at least {least:g}"


def _show(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(c if c.isprintable() else "?" for c in value) + '"'
        case dict():
            return "a table"
        case list():
            return "a list" if value else "an empty list"
        case _:
            return str(value)


# Directories


class _PathChecker:
    def __init__(self, path: Path | None) -> None:
        self._path = path

    def error(self, pointer: Pointer, found: str, expected: str, todo: str = "") -> ConfigError:
        """An error at a key of the file, with its line if the file is known."""
        if self._path is None:
            return ConfigError(dotted(pointer), found, expected, todo)
        where = _where(self._path, self._text(), pointer)
        return ConfigError(where, found, expected, todo)

    def _text(self) -> str:
        try:
            return read_text(self._path) if self._path is not None else ""
        except ConfigError:
            return ""

    def directory(self, pointer: Pointer, path: str) -> tuple[int, int]:
        """Device and inode of a directory that must exist and be writable."""
        make = f"create it: mkdir -p {path}"
        try:
            status = os.stat(path)
        except FileNotFoundError:
            raise self.error(
                pointer, f"no directory {path}", "a directory that exists", make
            ) from None
        except OSError as error:
            raise self.error(
                pointer, f"{path}: {error.strerror}", "a directory that can be used"
            ) from None
        if not stat.S_ISDIR(status.st_mode):
            raise self.error(pointer, f"{path}, not a directory", "a directory")
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            todo = "check its owner, its mode and that its file system is not mounted read-only"
            raise self.error(pointer, f"{path}, not writable", "a writable directory", todo)
        return status.st_dev, status.st_ino

    def directory_or_parent(self, pointer: Pointer, path: str) -> None:
        """A directory that exists, or one that can be created."""
        parent = os.path.dirname(os.path.normpath(path))
        self.directory(pointer, path if os.path.lexists(path) else parent)
