"""The program ``hsmd``."""

from __future__ import annotations

import argparse
import grp
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
import trio
from hypercorn.config import Config as ServerConfig
from hypercorn.trio import serve
from starlette.applications import Starlette

from hsmfs import configload, logs, servicemanager
from hsmfs.clock import Clock, SystemClock
from hsmfs.config import DEFAULT_PATH, Config
from hsmfs.daemon.activevolume import PlanStore
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.api.app import Api
from hsmfs.daemon.audit import Auditor
from hsmfs.daemon.autoreclaim import AutoReclaim
from hsmfs.daemon.blankstock import BlankStock
from hsmfs.daemon.care import Care
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogproof import open_catalog, read_catalog, want_volumes
from hsmfs.daemon.catalogrecords import DiscState
from hsmfs.daemon.clockguard import ClockGuard
from hsmfs.daemon.commands import Commands
from hsmfs.daemon.core import Core, NamespaceReader
from hsmfs.daemon.deadshare import DeadShares
from hsmfs.daemon.discidentity import Identities
from hsmfs.daemon.equipment import Equipment, open_equipment
from hsmfs.daemon.floor import BurnFloor
from hsmfs.daemon.fslink import FsLink
from hsmfs.daemon.hsmd import Hsmd
from hsmfs.daemon.importer import Importer
from hsmfs.daemon.jobs import Jobs
from hsmfs.daemon.librarian import Librarian
from hsmfs.daemon.magazines import Magazines
from hsmfs.daemon.manual.librarian import ManualLibrarian
from hsmfs.daemon.manual.people import People
from hsmfs.daemon.metrics import Metrics
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.offsite import Offsite
from hsmfs.daemon.ownfiles import OwnFiles
from hsmfs.daemon.policy.evaluate import Policy
from hsmfs.daemon.policyload import load_of
from hsmfs.daemon.policyrun import CLOCK_KEY, PolicyRunner
from hsmfs.daemon.recallahead import RecallAhead
from hsmfs.daemon.recaller import Recaller
from hsmfs.daemon.reclaim import Reclaimer
from hsmfs.daemon.releaser import Releaser
from hsmfs.daemon.report import Report
from hsmfs.daemon.robottask import Robot
from hsmfs.daemon.stopping import until_stopped
from hsmfs.daemon.supervise import supervise
from hsmfs.daemon.unlabelled import Unlabelled
from hsmfs.daemon.ward import Ward
from hsmfs.errors import CallerError, ConfigError, HsmError
from hsmfs.runlock import only_one
from hsmfs.store.lmdbstore import LmdbStore

log = structlog.get_logger(__name__)
NAMESPACE_WAIT_S: Final = 60.0
SOCKET_MODE: Final = 0o600
GROUP_MODE: Final = 0o660
SOCKET_POLL_S: Final = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; 1 for what is wrong outside, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="hsmd", description="hsmfs's policy and library daemon")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH)
    arguments = parser.parse_args(argv)
    try:
        config = configload.load(arguments.config)
        configload.check_library_paths(config, arguments.config)
        if len(config.library) != 1:
            raise ConfigError(
                f"{arguments.config}: [[library]]",
                f"{len(config.library)} libraries",
                "exactly one",
                "run one hsmd per library",
            )
        logs.set_up(config.log.level, config.log.json, "hsmd")
        run = Path(config.run.path)
        run.mkdir(parents=True, exist_ok=True)
        with only_one(run, "hsmd"):
            trio.run(_run, config)
    except HsmError as error:
        print(f"hsmd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"hsmd: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


async def _run(config: Config) -> None:
    store = await trio.to_thread.run_sync(open_catalog, config)
    namespace_store = await _open_namespace(config)
    try:
        want_volumes(config, store, namespace_store)
        metrics = Metrics()
        equipment = await trio.to_thread.run_sync(
            open_equipment, config.library[0], metrics.registry
        )
        try:
            await _serve(build(config, store, namespace_store, metrics, equipment, SystemClock()))
        finally:
            equipment.close()
    finally:
        namespace_store.close()
        store.close()


async def _open_namespace(config: Config) -> LmdbStore:
    """The namespace is made by hsmfs: wait for it, for a while."""
    path = Path(config.namespace.path)
    with trio.move_on_after(NAMESPACE_WAIT_S):
        while not (path / "data.mdb").exists():
            await trio.sleep(0.1)
        return LmdbStore(path, map_bytes=config.namespace.map_bytes, read_only=True)
    raise CallerError(f"{path}: no namespace after {NAMESPACE_WAIT_S:.0f} s; start hsmfs first")


def _policy(config: Config, catalog: Catalog, equipment: Equipment) -> Policy:
    """The rules; what is odd about them goes to the log."""
    library = config.library[0]
    slots = len(equipment.changer.inventory(refresh=True).slots)
    magazines = max(len(catalog.magazines), -(-slots // library.magazine_slots))
    if library.kind == "manual":
        magazines = max(magazines, len(library.boxes))
    policy = load_of(config, Path(config.policy.file), magazines)
    for warning in (*policy.warnings, *policy.not_carried_out()):
        log.info("policy", file=config.policy.file, warning=warning)
    return policy


def _librarian(
    config: Config,
    catalog: Catalog,
    equipment: Equipment,
    clock: Clock,
    wake: Callable[[], None],
) -> Librarian:
    library, robot, site = config.library[0], Robot(equipment.changer), config.site.id
    librarian: Librarian
    if library.kind == "manual":
        librarian = ManualLibrarian(
            library, robot, equipment.units, catalog, wake, site, clock.now_ns
        )
    else:
        librarian = Librarian(library, robot, equipment.units, catalog, wake)
        librarian.identities = Identities(catalog, library.name, site, clock.now_ns)
    librarian.stacks = equipment.stacks
    return librarian


def build(
    config: Config,
    store: LmdbStore,
    namespace_store: LmdbStore,
    metrics: Metrics,
    equipment: Equipment,
    clock: Clock,
) -> Hsmd:
    """All parts, wired together."""
    catalog = read_catalog(config, store)
    policy = _policy(config, catalog, equipment)

    def wake() -> None:
        hsmd.wake()

    librarian = _librarian(config, catalog, equipment, clock, wake)
    link = FsLink(
        Path(config.run.path) / "hsmfs.sock",
        claims=lambda: hsmd.migrator.claims(),
        on_event=lambda event: hsmd.on_event(event),
        on_connect=lambda: hsmd.on_connect(),
        on_reset=lambda: hsmd.recaller.reset(),
    )
    alarms = Alarms(clock)
    ward = Ward(config.health, librarian.units, catalog, alarms, clock, wake)
    librarian.is_aside = ward.is_aside
    core = Core(
        config=config,
        clock=clock,
        policy=policy,
        catalog=catalog,
        namespace=NamespaceReader(namespace_store),
        link=link,
        librarian=librarian,
        jobs=Jobs(),
        alarms=alarms,
        metrics=metrics,
        own_files=OwnFiles(
            Path(config.catalog.path) / "manifests",
            config.burn.previous_manifests,
            Path(config.namespace.path),
        ),
        ward=ward,
        wake=wake,
    )
    recaller = Recaller(core)
    migrator = Migrator(core, PlanStore(Path(config.catalog.path) / "plans"))
    magazines_keeper = Magazines(core, recaller, equipment.hands)
    care = Care(core, Path(config.care.stage or Path(config.catalog.path) / "stage"))
    guard = ClockGuard(clock, core.alarms, catalog.number(CLOCK_KEY))
    releaser = Releaser(core, guard)
    reclaimer = Reclaimer(core, migrator, recaller, releaser)
    hsmd = Hsmd(
        core=core,
        migrator=migrator,
        recaller=recaller,
        releaser=releaser,
        reclaim=AutoReclaim(core, DeadShares(core), reclaimer, care.parity),
        auditor=Auditor(core),
        stock=BlankStock(core, care.parity.blanks_kept),
        magazines=magazines_keeper,
        care=care,
        importer=Importer(core, Path(config.catalog.path) / "imports"),
        offsite=Offsite(core, magazines_keeper, migrator, care),
        changed=trio.Event(),
        floor=BurnFloor(config.burn.floor_percent / 100),
        unlabelled=Unlabelled(core),
        cut={d.barcode for d in catalog.discs.values() if d.state == DiscState.BURNING},
    )
    recaller.can_come_back = hsmd.care.can_come_back
    recaller.doubt = hsmd.care.doubt
    if isinstance(librarian, ManualLibrarian):
        hsmd.people = People(core, librarian, magazines_keeper, migrator)
        magazines_keeper.confirm = hsmd.people.confirm
    hsmd.care.on_proved = recaller.proved
    hsmd.importer.has_readers = recaller.has_readers
    hsmd.importer.on_forget = hsmd.care.forgotten
    return hsmd


async def _serve(hsmd: Hsmd) -> None:
    core = hsmd.core
    runner = PolicyRunner(core, hsmd.migrator, hsmd.releaser)
    ahead = RecallAhead(core, hsmd.recaller, hsmd.releaser.guard)
    hsmd.recaller.on_reader = ahead.on_wanted
    async with trio.open_nursery() as nursery:
        commands = Commands(hsmd, runner, nursery)
        report = Report(hsmd, commands)
        core.metrics.add_gauges(lambda: report.gauges())
        core.metrics.add_gauges(lambda: hsmd.stock.gauges())
        nursery.start_soon(hsmd.run)
        nursery.start_soon(supervise, "policy", runner.run, core.alarms)
        nursery.start_soon(supervise, "recall-ahead", ahead.run, core.alarms)
        api = Api(commands, report)
        socket_path = Path(core.config.run.path) / "hsmd.sock"
        socket_path.unlink(missing_ok=True)
        nursery.start_soon(_serve_http, api.app(), f"unix:{socket_path}")
        if core.config.run.metrics_hsmd_bind:
            nursery.start_soon(_serve_http, api.metrics_app(), core.config.run.metrics_hsmd_bind)
        nursery.start_soon(servicemanager.keep_watchdog, trio.lowlevel.checkpoint)
        await _open_to_group(socket_path, core.config.run.group)
        servicemanager.notify("READY=1")
        await until_stopped(hsmd)
        nursery.cancel_scope.cancel()


async def _serve_http(app: Starlette, bind: str) -> None:
    server = ServerConfig()
    server.bind = [bind]
    server.umask = 0o777 & ~SOCKET_MODE
    server.accesslog = None
    server.loglevel = "WARNING"
    server.graceful_timeout = 1.0
    server.shutdown_timeout = 1.0
    await serve(app, server, mode="asgi")  # type: ignore[arg-type]


async def _open_to_group(path: Path, group: str) -> None:
    """Let its members use the API, once the socket is there."""
    if not group:
        return
    while not path.is_socket():
        await trio.sleep(SOCKET_POLL_S)
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        raise ConfigError(
            "run.group", repr(group), "a group of this system", f"groupadd --system {group}"
        ) from None
    path.chmod(GROUP_MODE)


if __name__ == "__main__":
    sys.exit(main())
