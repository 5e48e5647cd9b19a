"""What the scripts that measure share: where programs are, ports, what a process uses, and how it is ended."""

import os
import signal
import socket
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Where Cargo builds.
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))


def end_on_sigterm():
    """Has SIGTERM end the script as Ctrl-C does: what it started is ended, and what it changed is put back."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def free_port():
    """A TCP port of this machine's that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_s(pid):
    """CPU time so far, threads that ended included."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    """Bytes of resident memory."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Rss:"))


def stop(process, patience_s):
    """Ends a process that was started here, by force when it takes too long."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
