"""The guests of a few instructions, and the ways in which each monitor is told to run one."""
import json
import os
import sys

from .machine import REPOSITORY
from .session import CannotMeasure

sys.path.insert(0, os.fspath(REPOSITORY / "tests" / "integration"))
from harness import tiny  # noqa: E402

MEMORY_MIB = 128


def reset_at_once(bench):
    """An ELF kernel whose second instruction resets the machine: the first one's exit is the guest's end."""
    path = bench.folder / "reset-at-once"
    return path if path.exists() else bench.file(path.name, tiny.elf(tiny.RESET))


def kit(bench, name):
    """A guest of tests/guests, made by the release build; tests/guests/README.md says what each does."""
    path = bench.build / "tests" / "guests" / name
    if not path.exists():
        raise CannotMeasure(f"{path} is missing: the build has not made it")
    return bench.local(path)


def results(output):
    """[(name, {key: value})] of the lines `result: NAME KEY=VALUE ...` that a guest of the kit prints."""
    found = []
    for line in output.decode(errors="replace").splitlines():
        if line.startswith("result: "):
            name, *pairs = line.removeprefix("result: ").split()
            found.append((name, dict(pair.partition("=")[::2] for pair in pairs)))
    return found


def disk(bench, name="disk", size=16 << 20):
    """An empty disk: a file that is one hole."""
    path = bench.file(name)
    os.truncate(path, size)
    return path


def mayfly_config(bench, name, kernel, *, arguments=None, vcpus=1, memory_mib=MEMORY_MIB, disks=(), read_only=False,
                  **more):
    """A configuration file for Mayfly; returns its path. Guests at the same time share a disk that is read-only."""
    config = {"boot-source": {"kernel_image_path": os.fspath(kernel), **({"boot_args": arguments} if arguments else {})},
              "machine-config": {"vcpu_count": vcpus, "mem_size_mib": memory_mib},
              "drives": [{"drive_id": f"disk{number}", "path_on_host": os.fspath(path), "is_root_device": False,
                          "is_read_only": read_only}
                         for number, path in enumerate(disks)], **more}
    return bench.file(f"{name}.json", json.dumps(config))


def mayfly_command(bench, config, *more, program=None):
    """Mayfly for a configuration file, without its API and with no more log than warnings."""
    return [program or bench.mayfly, "--no-api", "--config-file", config, "--level", "Warn", *more]
