"""The guests of a few instructions, and the ways in which each monitor is told to run one."""
import json
import os
import sys

from .machine import REPOSITORY

sys.path.insert(0, os.fspath(REPOSITORY / "tests" / "integration"))
from harness import tiny  # noqa: E402

MEMORY_MIB = 128


def reset_at_once(bench):
    """An ELF kernel whose second instruction resets the machine: the first one's exit is the guest's end."""
    path = bench.folder / "reset-at-once"
    return path if path.exists() else bench.file(path.name, tiny.elf(tiny.RESET))


def halt_for_ever(bench):
    """An ELF kernel that stays: it halts with interrupts off."""
    path = bench.folder / "halt-for-ever"
    return path if path.exists() else bench.file(path.name, tiny.elf(tiny.HALT_FOR_EVER))


def disk(bench, name="disk", size=16 << 20):
    """An empty disk: a file that is one hole."""
    path = bench.file(name)
    os.truncate(path, size)
    return path


def mayfly_config(bench, name, kernel, *, vcpus=1, memory_mib=MEMORY_MIB, disks=(), **more):
    """A configuration file for Mayfly; returns its path."""
    config = {"boot-source": {"kernel_image_path": os.fspath(kernel)},
              "machine-config": {"vcpu_count": vcpus, "mem_size_mib": memory_mib},
              "drives": [{"drive_id": f"disk{number}", "path_on_host": os.fspath(path), "is_root_device": False}
                         for number, path in enumerate(disks)], **more}
    return bench.file(f"{name}.json", json.dumps(config))


def mayfly_command(bench, config, *more):
    """Mayfly for a configuration file, without its API and with no more log than warnings."""
    return [bench.mayfly, "--no-api", "--config-file", config, "--level", "Warn", *more]
