"""Times of an emulated drive: its buffer, seeks, radius and layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmfs.changer.emulated.pace import Pace
from hsmfs.changer.emulated.state import Timing
from hsmfs.clock import ManualClock

MIB = 512
"""Sectors."""


def pace_of(**fields: float) -> tuple[Pace, ManualClock, Timing]:
    clock = ManualClock()
    timing = Timing(**fields)  # type: ignore[arg-type]
    pace = Pace(timing, clock)
    pace.settle()
    return pace, clock, timing


def seconds(sectors: int, bytes_s: float) -> float:
    return sectors * 2048 / bytes_s


def test_a_host_that_thinks_less_than_the_drive_reads_gets_all_of_its_speed() -> None:
    pace, clock, timing = pace_of()
    for step in range(100):
        pace.read(step * MIB, MIB)
        clock.sleep(0.9 * seconds(MIB, timing.read_bytes_s))
    pace.read(100 * MIB, MIB)
    assert clock.elapsed_s == pytest.approx(seconds(101 * MIB, timing.read_bytes_s))


def test_reading_ahead_ends_when_the_buffer_is_full() -> None:
    pace, clock, timing = pace_of()
    pace.read(0, MIB)
    clock.sleep(60.0)
    before_s = clock.elapsed_s
    pace.read(MIB, 4 * MIB)
    assert clock.elapsed_s == before_s
    pace.read(5 * MIB, MIB)
    assert clock.elapsed_s - before_s == pytest.approx(seconds(MIB, timing.read_bytes_s))


def test_a_seek_and_what_is_still_in_the_buffer() -> None:
    pace, clock, timing = pace_of()
    pace.read(100 * MIB, MIB)
    assert clock.elapsed_s == pytest.approx(timing.seek_s + seconds(MIB, timing.read_bytes_s))
    before_s = clock.elapsed_s
    pace.read(100 * MIB + 16, MIB - 16)
    assert clock.elapsed_s == before_s


def test_a_burn_waits_for_room_in_the_buffer_and_a_flush_for_all() -> None:
    pace, clock, timing = pace_of()
    pace.write(0, 4 * MIB)
    assert clock.elapsed_s == 0.0
    pace.write(4 * MIB, MIB)
    assert clock.elapsed_s == pytest.approx(seconds(MIB, timing.write_bytes_s))
    pace.flush()
    assert clock.elapsed_s == pytest.approx(seconds(5 * MIB, timing.write_bytes_s))


def test_an_empty_buffer_costs_nothing_but_the_time_that_passed() -> None:
    pace, clock, timing = pace_of()
    pace.write(0, MIB)
    clock.sleep(10.0)
    pace.write(MIB, MIB)
    pace.flush()
    assert clock.elapsed_s == pytest.approx(10.0 + seconds(MIB, timing.write_bytes_s))


def test_layers_run_outwards_and_inwards() -> None:
    fields = dict(inner_share=0.5, layer_bytes=100 * MIB * 2048, buffer_bytes=0, seek_s=0.0)
    pace, clock, timing = pace_of(**fields)

    def speed_at(lba: int) -> float:
        pace.settle()
        before_s = clock.elapsed_s
        pace.read(lba, 1)
        return 2048 / (clock.elapsed_s - before_s) / timing.read_bytes_s

    assert speed_at(0) == pytest.approx(0.5)
    assert speed_at(100 * MIB - 1) == pytest.approx(1.0, rel=0.001)
    assert speed_at(100 * MIB + 1) == pytest.approx(1.0, rel=0.001)
    assert speed_at(200 * MIB - 1) == pytest.approx(0.5, rel=0.001)


def test_a_layer_change_takes_its_time_once() -> None:
    pace, clock, timing = pace_of(layer_bytes=10 * MIB * 2048)
    for step in range(20):
        pace.read(step * MIB, MIB)
    expected_s = seconds(20 * MIB, timing.read_bytes_s) + timing.layer_change_s
    assert clock.elapsed_s == pytest.approx(expected_s)


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 2_000)), max_size=40),
    st.sampled_from([0, 1 << 20, 4 << 20]),
)
def test_no_drive_is_faster_than_its_medium(reads: list[tuple[int, int]], buffer: int) -> None:
    pace, clock, timing = pace_of(buffer_bytes=buffer)
    seen: set[int] = set()
    for lba, sectors in reads:
        pace.read(lba, sectors)
        seen.update(range(lba, lba + sectors))
    assert clock.elapsed_s + 1e-6 >= seconds(len(seen), timing.read_bytes_s) - buffer / 36e6
