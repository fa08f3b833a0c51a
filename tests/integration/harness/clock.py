"""Time-outs. They only keep a broken program from hanging the tests: nothing depends on being quick."""
import os
import time

# How much slower than an ordinary machine this one is; the emulated host sets it.
FACTOR = float(os.environ.get("MAYFLY_TIME_FACTOR", "1"))

# All of what a test otherwise takes a sample of: every byte, hundreds of rounds. By hand, not in ./check.
EXHAUSTIVE = os.environ.get("MAYFLY_EXHAUSTIVE", "") not in ("", "0")


class TookTooLong(AssertionError):
    """Something that should have happened did not, in more time than it can need."""


def scaled(seconds):
    return seconds * FACTOR


def deadline(seconds):
    return time.monotonic() + scaled(seconds)


def wait_until(condition, seconds, what):
    """Waits until condition() is true and returns what it returned; `what` is for the message."""
    end = deadline(seconds)
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise TookTooLong(f"{what}: not within {scaled(seconds):g} s")
        time.sleep(0.01)
