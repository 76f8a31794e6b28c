"""A system's policy: its text, and what the configuration and this machine say beside it."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path

from hsmfs.config import Config
from hsmfs.configload import read_text
from hsmfs.daemon.policy.conditions import Names
from hsmfs.daemon.policy.evaluate import YEAR_S, Policy, PoolDefaults, load_policy
from hsmfs.errors import CallerError


def uid_of(name: str) -> int | None:
    """The number of a user, None if there is none of that name."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def gid_of(name: str) -> int | None:
    """The number of a group, None if there is none of that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


def names_of(config: Config) -> Names:
    """What a policy of this system may name."""
    return Names(tuple(tier.name for tier in config.tier), uid_of, gid_of)


def load_of(config: Config, path: Path, magazines: int | None) -> Policy:
    """The rules of a file, as this system would follow them."""
    return load_text(config, read_text(path), str(path), magazines)


def load_text(config: Config, text: str, file_name: str, magazines: int | None) -> Policy:
    """The same of a text, with what the configuration says where a pool says nothing."""
    defaults = PoolDefaults(
        burn_max_wait_s=config.burn.burn_max_wait_s,
        parity=config.care.parity,
        scrub_s=config.care.scrub_years * YEAR_S,
        scrub_percent=config.care.scrub_percent,
        recovery_percent=config.care.disc_recovery_percent,
    )
    names = names_of(config)
    return load_policy(text, file_name, names.tiers, magazines, defaults, names)


def default_pool(policy: Policy, config: Config) -> str:
    """The first pool of the policy."""
    for name in policy.pools:
        return name
    raise CallerError(
        f"policy {config.policy.file}: no pool, expected at least one; "
        'add: pool "main" { copies 2 spread magazine }'
    )
