"""Whatever is asked for, in whatever order: nobody starves, nothing is used twice."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from hsmfs.daemon.scheduler import (
    Burn,
    BurnDemand,
    DriveView,
    Picture,
    Priority,
    Read,
    ReadDemand,
    Rules,
    Share,
    StageDemand,
    StageImage,
    Unload,
    Verify,
    VerifyDemand,
    Work,
    Yield,
    plan,
)

discs = st.sampled_from(["A", "B", "C", "D", "E"])
moments = st.sampled_from([0.0, 500.0, 900.0, 990.0])
NOW_S = 1_000.0


@st.composite
def drive_views(draw: st.DrawFn) -> tuple[DriveView, ...]:
    inside = draw(st.lists(discs, unique=True, max_size=4))
    views = []
    for number in range(draw(st.integers(1, 5))):
        busy = draw(st.booleans())
        views.append(
            DriveView(
                f"d{number}",
                busy,
                inside[number] if number < len(inside) else "",
                draw(moments),
                draw(moments),
                draw(st.sampled_from(list(Work))) if busy else Work.NONE,
                draw(moments),
                draw(st.sampled_from(Priority)),
                draw(st.booleans()),
                moving=busy and draw(st.booleans()),
                heat=draw(st.sampled_from([0.0, 1.0, 5.0])),
            )
        )
    return tuple(views)


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    sets = st.lists(discs, unique=True, min_size=1, max_size=3).map(tuple)
    users = st.tuples(st.sampled_from("xyz"), st.integers(1, 9))
    reads = tuple(
        ReadDemand(
            f"r{number}",
            draw(sets),
            draw(moments),
            draw(st.sampled_from(Priority)),
            tuple(
                Share(user, files, files * draw(moments))
                for user, files in draw(st.lists(users, max_size=2, unique_by=lambda one: one[0]))
            ),
        )
        for number in range(draw(st.integers(0, 5)))
    )
    return Picture(
        draw(drive_views()),
        reads,
        tuple(BurnDemand(f"b{n}", 2, draw(moments)) for n in range(draw(st.integers(0, 2)))),
        tuple(
            VerifyDemand(disc, "d0", draw(moments), draw(st.booleans()))
            for disc in draw(st.sets(discs, max_size=3))
        ),
        tuple(StageDemand(f"s{n}", draw(sets), 0.0) for n in range(draw(st.integers(0, 2)))),
        tuple(draw(st.sets(discs, max_size=1))),
        Rules(readers_wait_max_s=400.0, hold_s=draw(st.sampled_from([0.0, 20.0]))),
        draw(st.sampled_from([-5.0, 0.0, 5.0])),
    )


@given(pictures())
def test_no_drive_and_no_disc_has_two_jobs(picture: Picture) -> None:
    drives: list[str] = []
    used: list[str] = []
    holder = {view.disc: view.name for view in picture.drives if view.disc}
    for action in plan(picture, NOW_S):
        match action:
            case Burn(_, names):
                drives += names
            case Read(name, _, disc) | Verify(name, disc) | StageImage(name, _, disc):
                drives.append(name)
                used.append(disc)
                assert holder.get(disc, name) == name, "a disc is where it is"
            case Unload(name):
                drives.append(name)
            case Yield(name):
                view = next(view for view in picture.drives if view.name == name)
                assert view.busy and view.work in (Work.READ, Work.SCRUB, Work.VERIFY)
    busy = {view.name for view in picture.drives if view.busy}
    assert len(drives) == len(set(drives)) and not busy & set(drives)
    assert len(used) == len(set(used))


@given(pictures())
def test_one_job_for_each_demand(picture: Picture) -> None:
    actions = plan(picture, NOW_S)
    volumes = [one.volume for one in actions if isinstance(one, Read | Burn | StageImage)]
    assert len(volumes) == len(set(volumes))
    asked = {d.volume for d in (*picture.reads, *picture.burns, *picture.stages)}
    assert set(volumes) <= asked


@given(pictures())
def test_the_same_picture_gives_the_same_plan(picture: Picture) -> None:
    assert plan(picture, NOW_S) == plan(picture, NOW_S)


@given(drive_views(), st.sampled_from([-5.0, 5.0]))
def test_nothing_to_do_moves_nothing(drives: tuple[DriveView, ...], debt_s: float) -> None:
    assert plan(Picture(drives, burn_debt_s=debt_s), NOW_S) == []


@given(pictures())
def test_long_work_leaves_recalls_their_drives(picture: Picture) -> None:
    before = [view for view in picture.drives if view.busy and view.work is not Work.READ]
    count = sum(view.work is not Work.NONE for view in before)
    begun = 0
    for action in plan(picture, NOW_S):
        begun += len(action.drives) if isinstance(action, Burn) else 0
        begun += isinstance(action, Verify | StageImage)
    alive = len(picture.drives)
    assert not begun or count + begun <= alive - int(alive * picture.rules.reserved)


# -- nobody starves -------------------------------------------------------------------

LOAD_S, FILE_S = 3, 2
VOLUMES = 6
RULES = Rules(
    readers_wait_max_s=240.0, bulk_wait_max_s=600.0, background_wait_max_s=600.0,
    turn_s=10.0, hold_s=5.0,
)  # fmt: skip


@dataclass
class _Drive:
    name: str
    disc: str = ""
    volume: str = ""
    since_s: int = 0
    free_at_s: int = 0
    yields: bool = False
    read_at_s: float = float("-inf")


@dataclass
class Model:
    """Drives that take whole seconds, and volumes that are wanted again and again."""

    drives: list[_Drive]
    waiting: dict[str, tuple[int, Priority]] = field(default_factory=dict)
    waits: list[tuple[int, Priority]] = field(default_factory=list)

    def want(self, volume: str, now_s: int, priority: Priority) -> None:
        self.waiting.setdefault(volume, (now_s, priority))

    def step(self, now_s: int) -> None:
        for drive in self.drives:
            if drive.volume and drive.free_at_s <= now_s:
                self._next_file(drive, now_s)
        busy = {drive.volume for drive in self.drives}
        reads = tuple(
            ReadDemand(volume, (volume,), since_s, priority)
            for volume, (since_s, priority) in self.waiting.items()
            if volume not in busy
        )
        views = tuple(
            DriveView(
                d.name, bool(d.volume), d.disc, d.free_at_s, d.read_at_s,
                Work.READ if d.volume else Work.NONE, d.since_s, Priority.READERS, d.yields,
            )
            for d in self.drives
        )  # fmt: skip
        for action in plan(Picture(views, reads, rules=RULES), now_s):
            drive = next(d for d in self.drives if d.name == action.drive)  # type: ignore[union-attr]
            if isinstance(action, Yield):
                drive.yields = True
            elif isinstance(action, Read):
                load_s = 0 if drive.disc == action.disc else LOAD_S
                drive.disc, drive.volume, drive.yields = action.disc, action.volume, False
                drive.since_s, drive.free_at_s = now_s, now_s + load_s

    def _next_file(self, drive: _Drive, now_s: int) -> None:
        wanted = self.waiting.pop(drive.volume, None) if not drive.yields else None
        if wanted is None:
            drive.volume, drive.read_at_s = "", now_s
            return
        self.waits.append((now_s - wanted[0], wanted[1]))
        drive.free_at_s = now_s + FILE_S


@given(
    st.integers(1, 3),
    st.sets(st.integers(0, VOLUMES - 1)),
    st.lists(
        st.tuples(
            st.integers(0, 300), st.integers(0, VOLUMES - 1), st.sampled_from(Priority)
        ),
        max_size=20,
    ),
)  # fmt: skip
def test_a_demand_that_stays_is_served_within_its_bound(
    drives: int, hot: set[int], arrivals: list[tuple[int, int, Priority]]
) -> None:
    """However often hot volumes are wanted by readers meanwhile."""
    model = Model([_Drive(f"d{number}") for number in range(drives)])
    by_time: dict[int, list[tuple[int, Priority]]] = {}
    for at_s, volume, priority in arrivals:
        by_time.setdefault(at_s, []).append((volume, priority))
    for now_s in range(1_000):
        for volume, priority in by_time.get(now_s, []):
            model.want(f"v{volume}", now_s, priority)
        for volume in sorted(hot):
            model.want(f"v{volume}", now_s, Priority.READERS)
        model.step(now_s)
    for wait_s, priority in model.waits:
        assert wait_s <= RULES.wait_max_s(priority)
    for since_s, priority in model.waiting.values():
        assert 1_000 - since_s <= RULES.wait_max_s(priority)
