"""The program ``hsmd``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog
import trio
from hypercorn.config import Config as ServerConfig
from hypercorn.trio import serve
from starlette.applications import Starlette

from hsmfs import configload, logs
from hsmfs.clock import Clock, SystemClock
from hsmfs.config import DEFAULT_PATH, Config
from hsmfs.daemon.activevolume import PlanStore
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.api.app import Api
from hsmfs.daemon.autoreclaim import AutoReclaim
from hsmfs.daemon.care import Care
from hsmfs.daemon.catalogproof import open_catalog, read_catalog, want_volumes
from hsmfs.daemon.catalogrecords import DiscState
from hsmfs.daemon.commands import Commands
from hsmfs.daemon.core import Core, NamespaceReader
from hsmfs.daemon.deadshare import DeadShares
from hsmfs.daemon.equipment import Equipment, open_equipment
from hsmfs.daemon.floor import BurnFloor
from hsmfs.daemon.fslink import FsLink
from hsmfs.daemon.hsmd import Hsmd
from hsmfs.daemon.importer import Importer
from hsmfs.daemon.jobs import Jobs
from hsmfs.daemon.librarian import Librarian
from hsmfs.daemon.magazines import Magazines
from hsmfs.daemon.metrics import Metrics
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.offsite import Offsite
from hsmfs.daemon.ownfiles import OwnFiles
from hsmfs.daemon.policy.evaluate import YEAR_S, Policy, PoolDefaults, load_policy
from hsmfs.daemon.policyrun import PolicyRunner
from hsmfs.daemon.recaller import Recaller
from hsmfs.daemon.reclaim import Reclaimer
from hsmfs.daemon.releaser import Releaser
from hsmfs.daemon.report import Report
from hsmfs.daemon.robottask import Robot
from hsmfs.daemon.supervise import supervise
from hsmfs.daemon.ward import Ward
from hsmfs.errors import CallerError, ConfigError, HsmError
from hsmfs.runlock import only_one
from hsmfs.store.lmdbstore import LmdbStore

log = structlog.get_logger(__name__)
NAMESPACE_WAIT_S: Final = 60.0
SOCKET_MODE: Final = 0o600


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


def _policy(config: Config, magazines: int) -> Policy:
    """The rules, with what the configuration says where a pool says nothing."""
    text = configload.read_text(Path(config.policy.file))
    defaults = PoolDefaults(
        burn_max_wait_s=config.burn.burn_max_wait_s,
        parity=config.care.parity,
        scrub_s=config.care.scrub_years * YEAR_S,
        scrub_percent=config.care.scrub_percent,
        recovery_percent=config.care.disc_recovery_percent,
    )
    tiers = {tier.name for tier in config.tier}
    return load_policy(text, config.policy.file, tiers, magazines, defaults)


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
    library_config = config.library[0]
    changer = equipment.changer
    slots = len(changer.inventory(refresh=True).slots)
    magazines = max(len(catalog.magazines), -(-slots // library_config.magazine_slots))
    policy = _policy(config, magazines)
    robot = Robot(changer)

    def wake() -> None:
        hsmd.wake()

    librarian = Librarian(library_config, robot, equipment.units, catalog, wake)
    librarian.stacks = equipment.stacks
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
    releaser = Releaser(core)
    reclaimer = Reclaimer(core, migrator, recaller, releaser)
    hsmd = Hsmd(
        core=core,
        migrator=migrator,
        recaller=recaller,
        releaser=releaser,
        reclaim=AutoReclaim(core, DeadShares(core), reclaimer, care.parity),
        magazines=magazines_keeper,
        care=care,
        importer=Importer(core, Path(config.catalog.path) / "imports"),
        offsite=Offsite(core, magazines_keeper, migrator, care),
        changed=trio.Event(),
        floor=BurnFloor(config.burn.floor_percent / 100),
        cut={d.barcode for d in catalog.discs.values() if d.state == DiscState.BURNING},
    )
    recaller.can_come_back = hsmd.care.can_come_back
    recaller.doubt = hsmd.care.doubt
    hsmd.care.on_proved = recaller.proved
    hsmd.importer.has_readers = recaller.has_readers
    hsmd.importer.on_forget = hsmd.care.forgotten
    return hsmd


async def _serve(hsmd: Hsmd) -> None:
    core = hsmd.core
    runner = PolicyRunner(core, hsmd.migrator, hsmd.releaser)
    async with trio.open_nursery() as nursery:
        commands = Commands(hsmd, runner, nursery)
        report = Report(hsmd, commands)
        core.metrics.add_gauges(lambda: report.gauges())
        nursery.start_soon(hsmd.run)
        nursery.start_soon(supervise, "policy", runner.run, core.alarms)
        api = Api(commands, report)
        socket_path = Path(core.config.run.path) / "hsmd.sock"
        socket_path.unlink(missing_ok=True)
        nursery.start_soon(_serve_http, api.app(), f"unix:{socket_path}")
        if core.config.run.metrics_hsmd_bind:
            nursery.start_soon(_serve_http, api.metrics_app(), core.config.run.metrics_hsmd_bind)
        _notify_ready()
        await _stop_signal()
        log.info("stopping")
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


async def _stop_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return


def _notify_ready() -> None:
    """Tell systemd, where it asks (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", address)


if __name__ == "__main__":
    sys.exit(main())
