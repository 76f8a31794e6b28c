"""The reference site: what it has, and one day of what is asked of it, by seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from hsmfs.changer.emulated.state import Timing
from hsmfs.daemon.picture import Priority

HOUR_S: Final = 3_600.0
BY_HOUR: Final = (1, 1, 1, 1, 1, 2, 8, 20, 20, 20, 20, 20, 20, 20, 20, 8, 3, 2, 2, 1, 1, 1, 1, 1)
"""Readers' requests in each hour of the day: most in the eight of the main shift."""
USERS: Final = 60


@dataclass(frozen=True, slots=True)
class Site:
    """336 magazines of 12 discs of 128 GB, 12 drives, one robot."""

    magazines: int = 336
    magazine_slots: int = 12
    disc_bytes: int = 128_000_000_000
    drives: int = 12
    copies: int = 2
    blanks: int = 64
    recalls: int = 5_000
    bulk_share: float = 0.2
    bulk_jobs: int = 100
    study_files: int = 300
    file_bytes: int = 526_000
    """A CT slice of 512 x 512 x 16 bits and its header."""
    burn_bytes: int = 2_000_000_000_000
    hours: float = 24.0
    seed: int = 1
    timing: Timing = field(default_factory=Timing)

    @property
    def volumes(self) -> int:
        return (self.magazines * self.magazine_slots - self.blanks) // self.copies

    @property
    def study_bytes(self) -> int:
        return self.study_files * self.file_bytes

    @property
    def studies_per_volume(self) -> int:
        return self.disc_bytes // self.study_bytes

    @property
    def pre_s(self) -> float:
        """Of a drive's time before a disc can be read: it is brought, it spins up."""
        return self.timing.move_s + self.timing.load_s

    @property
    def post_s(self) -> float:
        """And after: it is taken away."""
        return self.timing.move_s

    @property
    def read_s(self) -> float:
        """A study, without the seek."""
        return self.study_bytes / self.timing.read_bytes_s

    @property
    def burn_s(self) -> float:
        return self.disc_bytes / self.timing.write_bytes_s

    @property
    def verify_s(self) -> float:
        return self.disc_bytes / self.timing.read_bytes_s


@dataclass(frozen=True, slots=True)
class Recall:
    """A study is wanted: its files lie one after the other on one volume."""

    number: int
    at_s: float
    volume: int
    """0 is the youngest."""
    offset: int
    user: str
    priority: Priority


@dataclass(frozen=True, slots=True)
class Day:
    """All that is asked for."""

    site: Site
    recalls: tuple[Recall, ...]
    burns: tuple[float, ...]
    """When each volume is ready to be burned."""


def make_day(site: Site) -> Day:
    """One day: Zipf (exponent 1) over the age of studies; none is recalled twice,
    since it is in the cache then."""
    chance = random.Random(site.seed)
    studies = _studies(site, chance)
    times = _times(site, chance)
    recalls = [
        Recall(
            number,
            at_s,
            study // site.studies_per_volume,
            study % site.studies_per_volume * site.study_bytes,
            user,
            priority,
        )
        for number, ((at_s, user, priority), study) in enumerate(zip(times, studies, strict=True))
    ]
    volumes = round(site.burn_bytes / site.copies / site.disc_bytes)
    burns = [site.hours * HOUR_S * 0.8 * number / volumes for number in range(volumes)]
    return Day(site, tuple(sorted(recalls, key=lambda recall: recall.at_s)), tuple(burns))


def _studies(site: Site, chance: random.Random) -> list[int]:
    """Distinct ranks by age, each with a chance of one in its rank (log-uniform draws)."""
    total = site.volumes * site.studies_per_volume
    drawn: dict[int, None] = {}
    while len(drawn) < site.recalls:
        drawn[int((total + 1) ** chance.random()) - 1] = None
    studies = list(drawn)
    chance.shuffle(studies)
    return studies


def _times(site: Site, chance: random.Random) -> list[tuple[float, str, Priority]]:
    """Readers over the day; bulk jobs of many studies at once."""
    bulk = int(site.recalls * site.bulk_share)
    found = []
    for _ in range(site.recalls - bulk):
        (hour,) = chance.choices(range(24), BY_HOUR)
        at_s = (hour + chance.random()) * HOUR_S * site.hours / 24
        found.append((at_s, f"uid {1000 + chance.randrange(USERS)}", Priority.READERS))
    starts = [chance.uniform(0, 16) * HOUR_S * site.hours / 24 for _ in range(site.bulk_jobs)]
    for number in range(bulk):
        job = number % site.bulk_jobs
        found.append((starts[job], f"job {job}", Priority.BULK))
    return found
