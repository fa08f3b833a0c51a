"""Before anything is measured: packages, a release build, guests.

A build folder of its own, so that a debug build of the day is never what is measured. What fails here ends the run with
the tool's own last lines.
"""
import os
import shutil
import subprocess

from .machine import REPOSITORY

BUILD = REPOSITORY / "build-bench"


class CannotPrepare(Exception):
    """A sentence for the person at the terminal."""


def install(say, purposes):
    done = subprocess.run([REPOSITORY / "scripts/install-packages", *purposes], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.stdout.strip():
        say(done.stdout.strip())
    return done.returncode == 0


def must(command, what):
    try:
        done = subprocess.run(list(map(os.fspath, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    except OSError as error:
        raise CannotPrepare(f"{what}: {command[0]} cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise CannotPrepare(f"{what} failed:\n{tail}")
    return done.stdout


def build(say):
    """The release build; returns its folder."""
    if not (BUILD / "build.ninja").exists():
        shutil.rmtree(BUILD, ignore_errors=True)
        must(["meson", "setup", BUILD, REPOSITORY, "--buildtype=release", "-Dtests=disabled"], "meson setup")
    say("building a release of Mayfly in build-bench/")
    must(["ninja", "-C", BUILD], "the build")
    return BUILD


def everything(say, emulated):
    """Packages and the release build; returns the build's folder."""
    if not install(say, ["build"]):
        raise CannotPrepare("the packages that a build needs are missing: see above")
    if not install(say, ["bench", *(["emulated-host"] if emulated else [])]):
        say("some packages of the bench are missing: what needs them is left out")
    return build(say)
