"""Time of guests that are saved and loaded, read by every vCPU all the while (guests/programs/clocks.c): it never goes back, and
with clock_realtime the wall clock is right. What Linux makes of it: test_clones.py.
"""
import random
import time

import pytest

from harness import small
from harness.clock import EXHAUSTIVE, FACTOR, scaled
from harness.snapshots import Snapshot, load, save

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

ROUNDS = 200 if EXHAUSTIVE else 8 if FACTOR == 1 else 2
READINGS = 10000 if FACTOR == 1 else 500  # between two looks at the serial port
WALL_GOAL_NS = 10_000_000
CLOCKS_APART_NS = 1_000_000  # of the host, whose wall clock may be slewed while the guest runs

each_count = pytest.mark.parametrize("vcpus", [*(pytest.param(count, marks=pytest.mark.once) for count in (1, 2)), 4])


class Moment:
    """What the guest's clocks show, and the host's before and behind; of some questions the one that took least."""

    def __init__(self, guest, questions=5):
        def ask():
            low, wall_low = time.monotonic_ns(), time.time_ns()
            self.said = guest.ask("say")
            return low, time.monotonic_ns(), wall_low, time.time_ns(), self.said

        answers = [ask() for _ in range(questions)]
        self.low, self.high, self.wall_low, self.wall_high, at_best = min(answers, key=lambda a: a[1] - a[0])
        self.ns, self.wall = at_best["ns"], at_best["wall_ns"]
        self.readings = self.said["readings"]

    def check_forward(self):
        assert (self.said["tsc_back"], self.said["kvm_back"]) == (0, 0), self.said

    def wall_off(self):
        """By how much the guest's wall clock is off for certain."""
        return max(self.wall_low - self.wall, self.wall - self.wall_high, 0)


@pytest.fixture
def start(workshop):
    def start(vcpus):
        guest = workshop.boot_small("clocks", f"cpus={vcpus} readings={READINGS}", vcpus=vcpus).wait_ready()
        return guest, Snapshot.at(workshop, "clocks")

    return start


def move(workshop, guest, snapshot, apart, **how):
    """Saves, kills, waits and loads; says when the guest stood still for certain, in the host's monotonic time."""
    save(guest.monitor, snapshot)
    paused = time.monotonic_ns()
    guest.monitor.kill()
    workshop.forget(guest)
    time.sleep(apart)
    resumed = time.monotonic_ns()
    return small.SmallGuest(load(workshop, snapshot, **how)), resumed - paused


@each_count
def test_no_clock_goes_back_on_any_vcpu_in_a_chain_of_snapshots(workshop, start, vcpus):
    guest, snapshot = start(vcpus)
    last = Moment(guest, 1)
    for number in range(ROUNDS):
        time.sleep(random.random() / 50)
        guest, _ = move(workshop, guest, snapshot, 0, clock_realtime=bool(number % 2))
        now = Moment(guest, 1)
        now.check_forward()
        assert now.ns > last.ns and now.wall > last.wall and now.said["tsc"] > last.said["tsc"]
        last = now
    # Each has read on, not only the one that answers.
    before = last.readings
    deadline = time.monotonic() + scaled(60)
    while Moment(guest, 1).readings <= before:
        assert time.monotonic() < deadline
    guest.tell("reset")
    guest.finish()


@each_count
def test_with_clock_realtime_the_wall_clock_is_right_after_every_load(workshop, start, vcpus):
    guest, snapshot = start(vcpus)
    before = Moment(guest)
    # As good as the answer of a guest that nobody has saved.
    assert before.wall_off() <= WALL_GOAL_NS
    for _ in range(max(ROUNDS // 2, 2)):
        guest, _ = move(workshop, guest, snapshot, 0.05 + random.random() / 10, clock_realtime=True)
        now = Moment(guest)
        now.check_forward()
        assert now.wall_off() <= WALL_GOAL_NS, (now.wall_off(), now.high - now.low)
        assert now.ns - before.ns >= now.low - before.high - CLOCKS_APART_NS
        assert now.ns - before.ns <= now.high - before.low + CLOCKS_APART_NS


@pytest.mark.once
@each_count
def test_without_it_the_guest_has_not_aged(workshop, start, vcpus):
    guest, snapshot = start(vcpus)
    before = Moment(guest)
    guest, asleep = move(workshop, guest, snapshot, 0.5)
    now = Moment(guest)
    now.check_forward()
    assert now.ns - before.ns <= now.high - before.low - asleep + CLOCKS_APART_NS
