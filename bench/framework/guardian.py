"""Ends what a bench leaves behind that was killed itself: a process of its own, which outlives it by a moment.

Lines on its standard input say what there is: `+PID` a process group that was started, `-PID` one that has ended, and
`/PATH` a scratch folder. When the input ends, the bench has: in good order, with everything gone, or by SIGKILL.
"""
import os
import shutil
import signal
import subprocess
import sys


class Guardian:
    """The bench's side."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, bufsize=0,
                                        start_new_session=True)

    def tell(self, line):
        # Without it the bench does what it can by itself.
        try:
            self.process.stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            pass

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def leads_a_group(pid):
    """Not a process that got the same number later."""
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def main():
    groups, folders = set(), set()
    for line in sys.stdin:
        word = line.strip()
        if word.startswith("/"):
            folders.add(word)
        elif word.startswith("+"):
            groups.add(int(word[1:]))
        else:
            groups.discard(int(word[1:]))
    for pid in groups:
        if leads_a_group(pid):
            os.killpg(pid, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
