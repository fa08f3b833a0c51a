"""How fast this machine's time-stamp counter runs, which is also QEMU's (TCG without --icount passes it on).

A kernel finds that out at its boot, by counting for a few milliseconds. When QEMU gets no processor meanwhile, it finds
something else, and all of its clocks run fast or slow for good: seen was a factor of 14, by which every time-out was short.
"""
import ctypes
import mmap
import os
import time

LOOKS = 20
APART_SECONDS = 0.05
# rdtsc; shl rdx, 32; or rax, rdx; ret (Intel SDM volume 2B: EDX:EAX)
READ_COUNTER = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"


def look(counter):
    """The counter and the clock at the same moment, as well as can be: of several looks, the one that took the least."""
    looks = []
    for _ in range(LOOKS):
        before = time.monotonic_ns()
        ticks = counter()
        after = time.monotonic_ns()
        looks.append((after - before, (before + after) // 2, ticks))
    return min(looks)[1:]


def frequency_khz():
    """The counter's frequency in kHz, or None where it cannot be told."""
    if os.uname().machine != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None  # a policy against memory that is written and executed
    page.write(READ_COUNTER)
    counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    first_time, first = look(counter)
    time.sleep(APART_SECONDS)
    second_time, second = look(counter)
    return (second - first) * 1_000_000 // (second_time - first_time)
