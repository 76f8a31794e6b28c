"""Kills a program at a named step; Python loads this file itself in what tests start.

For programs that run with this directory in PYTHONPATH (``support.crashpoints``
sees to that). Nothing of it is in the programs: their functions are wrapped when
their modules are imported, and each call looks whether the file that
HSMFS_CRASH_FILE names wants this step. A hit is noted beside it (``.hit``) before the
process ends by SIGKILL, so that a test can tell that it was this step.

The file holds JSON: ``{"point": name, "when": "before" or "after", "facts": {...},
"nth": 1}``; facts must be those of the call. Points:

``MODULE:QUALNAME``
    a call of a function or method below, without facts
``catalog``
    a transaction of the catalog; its facts are those of one record put in it, with
    ``table`` (first letter of the key)
``scsi``
    a command to an emulated device: ``op`` (first byte), ``function`` (third byte)
``rename``
    ``Path.replace``: ``name`` and ``folder`` of the target
"""

import functools
import importlib.abc
import importlib.machinery
import inspect
import json
import os
import pathlib
import signal
import sys

CALLS = {
    "hsmfs.changer.emulated.disc": ["DiscFile.write", "DiscFile.sync", "fsync_directory"],
    "hsmfs.cache.hands": ["Hands.make", "Hands.remove"],
    "hsmfs.cache.tier": [
        "CacheTier.adopt_copy",
        "CacheTier.adopt_recall",
        "CacheTier.copy_aside",
        "CacheTier.truncate_to",
    ],
    "hsmfs.daemon.activevolume": ["PlanStore.save"],
    "hsmfs.daemon.care": ["Care._retire"],
    "hsmfs.daemon.deadshare": ["DeadShares._count"],
    "hsmfs.daemon.fslink": [
        "FsLink.copied",
        "FsLink.import_add",
        "FsLink.import_end",
        "FsLink.import_forget",
        "FsLink.landed",
    ],
    "hsmfs.daemon.identifyjob": ["IdentifyJob._take_in"],
    "hsmfs.daemon.ownfiles": ["OwnFiles.keep_manifest"],
    "hsmfs.daemon.parityset": ["FoldJob._fold"],
    "hsmfs.daemon.reclaim": ["Reclaimer._retire"],
    "hsmfs.daemon.splitter": ["Splitter._count"],
    "hsmfs.daemon.stagejob": ["StageJob._prove"],
    "hsmfs.daemon.treejob": ["TreeFile.fill"],
    "hsmfs.volume.recovery": ["Accumulator.finish"],
    "hsmfs.namespace.adoption": ["Adoption.make"],
    "hsmfs.namespace.marks": ["Marks.sync"],
    "hsmfs.namespace.recovery": ["sync_file_system"],
    "hsmfs.namespace.versions": ["Versions._cut_emptied"],
    "hsmfs.store.lmdbstore": ["LmdbStore.apply"],
    "hsmfs.tools.adopt.run": ["_Run._make", "_Run._take_away", "remove_folders"],
    "hsmfs.tools.rebuild.ledger": ["Ledger.keep"],
    "hsmfs.tools.rebuild.run": ["_sync_directory"],
    "hsmfs.tools.rebuild.tree": ["TreeBuilder.run"],
}
TABLES_OF_MAPS = b"VKGT"
"""Of the catalog: their values are msgpack maps."""
_counts = {}


def hit(point, when, facts):
    """End the process here, if that is asked for."""
    file = os.environ["HSMFS_CRASH_FILE"]
    try:
        with open(file) as asked:
            rule = json.load(asked)
    except (FileNotFoundError, ValueError):
        return
    if (rule["point"], rule.get("when", "before")) != (point, when):
        return
    wanted = rule.get("facts", {})
    if any(facts.get(key) != value for key, value in wanted.items()):
        return
    key = json.dumps(rule)
    _counts[key] = _counts.get(key, 0) + 1
    if _counts[key] < rule.get("nth", 1):
        return
    with open(f"{file}.hit", "w") as note:
        json.dump({"point": point, "when": when, "pid": os.getpid()}, note)
    os.kill(os.getpid(), signal.SIGKILL)


def around(function, point, facts_of=lambda *args: {}):
    """The function, with a look before and after it."""

    @functools.wraps(function)
    async def slow(*args, **kwargs):
        facts = facts_of(*args)
        hit(point, "before", facts)
        result = await function(*args, **kwargs)
        hit(point, "after", facts)
        return result

    @functools.wraps(function)
    def quick(*args, **kwargs):
        facts = facts_of(*args)
        hit(point, "before", facts)
        result = function(*args, **kwargs)
        hit(point, "after", facts)
        return result

    return slow if inspect.iscoroutinefunction(function) else quick


class Watched:
    """A writer of a store that remembers what is put."""

    def __init__(self, writer):
        self._writer = writer
        self.puts = []

    def __getattr__(self, name):
        return getattr(self._writer, name)

    def put(self, key, value):
        self.puts.append((key, value))
        self._writer.put(key, value)


def facts_of_put(key, value):
    import msgspec

    facts = {"table": chr(key[0])}
    if key[:1] in TABLES_OF_MAPS:
        found = msgspec.msgpack.decode(value)
        facts |= found
        facts["is_parity"] = found.get("parity") is not None
    return facts


def watch_store(store):
    real = store.transact

    def transact(self, fn):
        if "catalog" not in str(self.path):
            return real(self, fn)
        puts = []

        def watched(writer):
            watching = Watched(writer)
            result = fn(watching)
            puts[:] = [facts_of_put(key, value) for key, value in watching.puts]
            for facts in puts:
                hit("catalog", "before", facts)
            return result

        result = real(self, watched)
        for facts in puts:
            hit("catalog", "after", facts)
        return result

    store.transact = transact


def command_facts(_transport, cdb, *_rest):
    return {"op": cdb[0], "function": cdb[2] & 7}


def wrap(module):
    """What is of interest in a module that was just imported."""
    for qualname in CALLS.get(module.__name__, ()):
        *owner, name = qualname.split(".")
        where = getattr(module, owner[0]) if owner else module
        setattr(where, name, around(getattr(where, name), f"{module.__name__}:{qualname}"))
    if module.__name__ == "hsmfs.store.lmdbstore":
        watch_store(module.LmdbStore)
    if module.__name__ == "hsmfs.changer.emulated.library":
        transport = module.EmulatedTransport
        transport.execute = around(transport.execute, "scsi", command_facts)


WRAPPED = {*CALLS, "hsmfs.changer.emulated.library"}
PROGRAMS = ("hsmd", "hsm", "hsmfs.main", "hsmfs.store.committer")
"""Names of scripts and modules that may be killed."""


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules as ever, and wraps them once they are loaded."""

    def find_spec(self, name, path, target=None):
        if name not in WRAPPED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        real = spec.loader.exec_module

        def exec_module(module):
            real(module)
            wrap(module)

        spec.loader.exec_module = exec_module
        return spec


def program():
    """The name of the script or module."""
    return os.path.basename(next((word for word in sys.orig_argv[1:] if word[:1] != "-"), ""))


def watch_renames():
    pathlib.Path.replace = around(
        pathlib.Path.replace,
        "rename",
        lambda _self, target: {
            "name": pathlib.Path(target).name,
            "folder": pathlib.Path(target).parent.name,
        },
    )


if os.environ.get("HSMFS_CRASH_FILE") and program() in PROGRAMS:
    sys.meta_path.insert(0, Finder())
    watch_renames()
