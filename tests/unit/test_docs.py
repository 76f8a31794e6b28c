"""What the documents name is there, and what is there is in the documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import typer
from msgspec import NODEFAULT, inspect

from hsmfs.config import Config
from hsmfs.tools import metricsdoc
from hsmfs.tools.hsm import make_app

ROOT = Path(__file__).parents[2]
PLANS = "roadmap.md"
"""Tells of commands and keys that are not there yet."""
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != PLANS)
TEXTS = [ROOT / "README.md", *PAGES]
SAMPLES = sorted((ROOT / "packaging" / "examples").iterdir())
COMMENTED = [*SAMPLES, *sorted((ROOT / "monitoring").glob("*.yml"))]
"""Files of other languages that name commands in comments and texts."""

# -- code in documents ---------------------------------------------------------------------

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
INDENTED = re.compile(r"^    +(\S.*)$", re.MULTILINE)


class Code(NamedTuple):
    """A piece of code in a document."""

    place: str
    text: str


def pieces(path: Path) -> Iterator[Code]:
    """Inline code, and lines of fenced and indented blocks without comments."""
    text = path.read_text()
    for block in FENCE.findall(text):
        for line in block[1].splitlines():
            yield Code(path.name, re.sub(r"\s#.*", "", line))
    text = FENCE.sub("", text)
    for line in INDENTED.findall(text):
        if "`" not in line:
            yield Code(path.name, re.sub(r"\s#.*", "", line))
    for span in INLINE.findall(text):
        yield Code(path.name, " ".join(span.replace(r"\|", "|").split()))


@cache
def codes() -> list[Code]:
    return [piece for path in TEXTS for piece in pieces(path)]


# -- commands ------------------------------------------------------------------------------

CALL = re.compile(r"(?:^|[;&(]\s*|/bin/)hsm\s+([^;&#]+)")
WORD = re.compile(r"[a-z][a-z-]*")
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][a-z-]*")


@cache
def tree() -> click.Group:
    group: Any = typer.main.get_group(make_app())
    assert hasattr(group, "commands")
    return group  # type: ignore[no-any-return]  # typer brings a click of its own


def leaves(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each command that is shown, with its words."""
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            if command.invoke_without_command:
                yield " ".join((*words, name)), command
            yield from leaves(command, (*words, name))
        elif not command.hidden:
            yield " ".join((*words, name)), command


def options(command: Any) -> set[str]:
    found = {"--help", "-h", "--config"}
    for parameter in command.params:
        found |= {*parameter.opts, *parameter.secondary_opts}
    return {one for one in found if one.startswith("-")}


def reached(words: list[str]) -> tuple[list[Any], list[str], str]:
    """The commands that some words call (several by ``a|b``), the other words, what is wrong."""
    nodes: list[Any] = [tree()]
    while words and all(getattr(node, "commands", None) for node in nodes):
        names = re.split(r"[|,]", words[0].strip("….,:)"))
        if not all(WORD.fullmatch(name) for name in names):
            break
        missing = [n for n in names if any(n not in node.commands for node in nodes)]
        if missing:
            return nodes, words, f"no command {missing[0]!r}"
        nodes, words = [node.commands[name] for node in nodes for name in names], words[1:]
    return nodes, words, ""


def faults(call: str) -> Iterator[str]:
    """What is wrong with the words behind ``hsm``."""
    words = call.split()
    while words and words[0] in ("--config", "[--config"):
        words = words[2:]
    nodes, rest, wrong = reached(words)
    if wrong:
        yield wrong
        return
    known = set.union(*(options(node) for node in nodes))
    for option in OPTION.findall(re.sub(r"\"[^\"]*\"", "", " ".join(rest))):
        if option not in known:
            yield f"no option {option}"


def test_commands_in_documents_exist() -> None:
    wrong = [
        f"{place}: hsm {call.strip()}: {why}"
        for place, text in codes()
        for call in CALL.findall(text)
        for why in faults(call)
    ]
    assert not wrong, "\n".join(wrong)


def test_commands_in_samples_and_alerts_exist() -> None:
    said = re.compile(r"\bhsm ((?:[a-z-]+ ?)+(?:--[a-z-]+)?)")
    wrong = []
    for path in COMMENTED:
        for call in said.findall(path.read_text()):
            command, *rest = call.split()
            node: Any = tree().commands.get(command)
            below = getattr(node, "commands", {})
            if node is None or (below and not node.invoke_without_command and rest[0] not in below):
                wrong.append(f"{path.name}: hsm {call}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("volume|disc verify X --sample 10%", ""),
        ("[--config FILE] COMMAND …", ""),
        ("drive quarantine drive3 --why noisy [--hours 24]", ""),
        ("disc vrify X", "no command 'vrify'"),
        ("ls --colour", "no option --colour"),
    ],
)
def test_calls_are_understood(call: str, why: str) -> None:
    assert list(faults(call)) == ([why] if why else [])


def test_options_that_stand_alone_exist() -> None:
    known = set.union(*(options(command) for _, command in leaves(tree())))
    for path in (*(ROOT / "tools").rglob("*.py"), *(ROOT / "hsmfs" / "volume").glob("*.py")):
        known |= set(re.findall(r'"(--[a-z-]+)"', path.read_text()))
    alone = re.compile(r"--[a-z][a-z-]*")
    wrong = [
        f"{place}: {text}"
        for place, text in codes()
        if alone.match(text) and alone.match(text)[0] not in known  # type: ignore[index]
    ]
    assert not wrong


def test_every_command_and_option_is_in_the_manual() -> None:
    text = (ROOT / "docs" / "cli.md").read_text().replace(r"\|", "|")
    missing = []
    for name, command in leaves(tree()):
        lines = [line for line in text.splitlines() if re.search(rf"`hsm {name}(?![\w-])", line)]
        line = " ".join(lines)
        if name == "sandbox start":
            line = text[text.index("`hsm sandbox start") :].split("\n\n")[0]
        if not line:
            missing.append(name)
            continue
        for parameter in command.params:
            opts = {one for one in (*parameter.opts, *parameter.secondary_opts) if one[0] == "-"}
            if opts and not opts & {"--json", "--config", "--wait", *OPTION.findall(line)}:
                missing.append(f"{name} {'|'.join(sorted(opts))}")
    assert not missing


# -- the configuration ---------------------------------------------------------------------

FILES = {
    "policy.hsm", "site.policy", "library.json", "library.new", "namespace.rebuild",
    "catalog.rebuild", "namespace.jsonl", "log.jsonl",
}  # fmt: skip
FACTS = {"tier.used"}
"""Words of the policy language that look like a key."""
TABLES_ELSEWHERE = {"retention", "nfsd"}
"""Of the file of `hsm retention apply`, and of nfs.conf."""
CONFIGURE = ROOT / "docs" / "configure.md"


@cache
def keys() -> dict[str, dict[str, Any]]:
    """Defaults by table and key; tables in tables too (``library.drive``)."""
    found: dict[str, dict[str, Any]] = {}

    def note(name: str, kind: Any) -> None:
        found[name] = {field.name: _default(field) for field in kind.fields}
        for field in kind.fields:
            inner = getattr(field.type, "item_type", field.type)
            if isinstance(inner, inspect.StructType):
                note(f"{name}.{field.name}", inner)

    root = inspect.type_info(Config)
    assert isinstance(root, inspect.StructType)
    for table in root.fields:
        note(table.name, getattr(table.type, "item_type", table.type))
    return found


def _default(field: inspect.Field) -> Any:
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def named_keys(text: str) -> Iterator[tuple[str, str]]:
    """Table and key, as ``care.parity``."""
    tables = "|".join(keys())
    pattern = rf"(?<![\w/.])({tables})(?:\[\d\])?\.([a-z_]+)(?![\w(])"
    yield from re.findall(pattern, text)


def test_keys_in_documents_exist() -> None:
    known, wrong = keys(), []
    for place, text in codes():
        for table, key in named_keys(text):
            if f"{table}.{key}" not in FILES | FACTS and key not in known[table]:
                wrong.append(f"{place}: {table}.{key}")
    inside = re.compile(
        r"`(\w+)(?: = [^`]*)?`(?: (?:and|or|to) `(\w+)`)?,? (?:in|of) `\[+([\w.]+)\]+`"
    )
    for path in TEXTS:
        for *names, table in inside.findall(path.read_text()):
            wrong += [f"{path.name}: {table}.{n}" for n in names if n and n not in known[table]]
    assert not wrong


def test_tables_in_documents_exist() -> None:
    table = re.compile(r"\[{1,2}([a-z]+(?:\.[a-z]+)?)\]{1,2}")
    known = {*keys(), *TABLES_ELSEWHERE}
    wrong = [c for c in codes() if (hit := table.fullmatch(c.text)) and hit[1] not in known]
    assert not wrong


UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def value(cell: str) -> Any:
    """What a cell of defaults says, as TOML has it; None where it is required."""
    cell = cell.strip(" `")
    if "required" in cell:
        return None
    if size := re.fullmatch(r"(\d+) ([KMGT]iB)", cell):
        return int(size[1]) * UNITS[size[2]]
    if re.fullmatch(r"[\d,]+", cell):
        return int(cell.replace(",", ""))
    return ast.literal_eval(cell.replace("true", "True").replace("false", "False"))


def rows_of_keys() -> Iterator[tuple[str, str, str]]:
    """Table, key and default of each row."""
    table = ""
    for line in CONFIGURE.read_text().splitlines():
        if heading := re.match(r"## \[+(\w+)\]+", line):
            table = heading[1]
        elif inner := re.match(r"\| key of `\[+([\w.]+)\]+`", line):
            table = inner[1]
        elif row := re.match(r"\| `(\w+)` \| (.*?) \| .+ \|$", line):
            yield table, row[1], row[2]


def test_the_table_of_keys_has_every_key_with_its_default_and_no_other() -> None:
    known, wrong, seen = keys(), [], set()
    for table, key, cell in rows_of_keys():
        seen.add((table, key))
        if key not in known[table]:
            wrong.append(f"{table}.{key} is no key")
        elif "required" not in cell and known[table][key] != value(cell):
            wrong.append(f"{table}.{key}: {cell}, the code has {known[table][key]!r}")
    inside = {("library", "drive")}
    wrong += [
        f"{table}.{key} is not told"
        for table, names in known.items()
        for key in names
        if (table, key) not in seen | inside and f"{table}.{key}" not in known
    ]
    assert not wrong


# -- metrics -------------------------------------------------------------------------------

METRIC = re.compile(r"(?<![\w/.:-])hsm(?:d|fs)_[a-z0-9_]*[a-z0-9]")
NO_METRICS = {"hsmfs_pid", "hsmd_pid"}
"""Fields of JSON."""


def test_the_page_of_metrics_is_what_the_programs_tell() -> None:
    found = (ROOT / "docs" / "metrics.md").read_text()
    assert found == metricsdoc.page(), (
        "make it anew: .venv/bin/python -m hsmfs.tools.metricsdoc > docs/metrics.md"
    )


def test_metrics_in_documents_and_rules_exist() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) ", (ROOT / "docs" / "metrics.md").read_text(), re.M)
    known = {s for name, kind in rows for s in metricsdoc.Row(name, kind, (), "").samples()}
    wrong = []
    for path in (*TEXTS, *sorted((ROOT / "monitoring").iterdir())):
        if path.name != "metrics.md":
            named = set(METRIC.findall(path.read_text()))
            if path.suffix == ".md":
                named -= {name for name, _ in rows}  # a histogram as a whole
            wrong += [f"{path.name}: {name}" for name in sorted(named - known - NO_METRICS)]
    assert not wrong


# -- alarms --------------------------------------------------------------------------------

BY_NAME = {"rule NAME", "a part of hsmd"}
"""Kinds that are made from a name: of a rule, of a task that ``supervise`` restarts."""


def raised() -> set[str]:
    """Kinds in the code: the first argument of each call, or the constant of its module."""
    kinds: set[str] = set()
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        module = ast.parse(path.read_text())
        constants = {
            node.target.id: node.value.value
            for node in module.body
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(module):
            kind = _kind(node, constants)
            if kind is not None:
                kinds.add(kind)
    return kinds


def _kind(node: ast.AST, constants: dict[str, Any]) -> str | None:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    if node.func.attr not in ("raise_", "follow") or not node.args:
        return None
    if "alarms" not in ast.unparse(node.func.value):
        return None
    first = node.args[0]
    if isinstance(first, ast.Constant):
        return str(first.value)
    if isinstance(first, ast.Name) and first.id in constants:
        return str(constants[first.id])
    made = {"self._alarm": "rule NAME", "name": "a part of hsmd"}
    return made[ast.unparse(first)]  # a new way to name a kind is to be told here


def test_every_alarm_is_in_its_page_and_no_other() -> None:
    text = (ROOT / "docs" / "alarms.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    told = [row[0].strip("| `") for row in rows]
    assert set(told) == raised()
    assert len(told) == len(set(told))
    assert all(len(row) == 5 and all(cell.strip(" |") for cell in row) for row in rows)


def test_alarms_in_documents_exist() -> None:
    known = raised()
    said = re.compile(r"\balarms? `([^`]+)`")
    wrong = [
        f"{path.name}: {kind}"
        for path in TEXTS
        for kind in said.findall(path.read_text())
        if kind not in known
    ]
    asked = re.compile(r"hsmd_alarms_in_force\{[^}]*kind=\\?\"([^\"\\]+)")
    for path in sorted((ROOT / "monitoring").iterdir()):
        wrong += [f"{path.name}: {k}" for k in asked.findall(path.read_text()) if k not in known]
    assert not wrong


# -- make targets and files ----------------------------------------------------------------


def test_make_targets_in_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    said = re.compile(r"(?:^|[;&]\s*)make ([a-z][a-z-]*)")
    wrong = {f"{c.place}: {t}" for c in codes() for t in said.findall(c.text) if t not in targets}
    assert not wrong


def test_files_of_the_source_in_documents_exist() -> None:
    path = re.compile(r"(?:tests|tools|daemon|changer|monitoring|packaging|systemd|docs)/[\w./*-]*")
    wrong = {
        f"{c.place}: {c.text}"
        for c in codes()
        if path.fullmatch(c.text) and not list(ROOT.glob(c.text.rstrip("/")))
    }
    assert not wrong


# -- navigation ----------------------------------------------------------------------------


def test_every_page_is_in_the_navigation() -> None:
    nav = re.findall(r"^  - .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(nav) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
