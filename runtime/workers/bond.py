"""Ties a fresh worker process to its parent. Standard library only: it acts before anything can start a thread."""

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
OOM_SCORE = 500
"""Of at most 1000: when memory runs out, a worker is to go rather than the server, which can replace it."""


def bind(parent: int, cpus: Sequence[int]) -> None:
    """Pin this process to `cpus`, let it end with process `parent` and by no signal that is meant for that.

    SIGINT and SIGTERM often reach all processes of a service at once; the parent then finishes what it has accepted,
    and still needs its workers. The kernel kills this process when the thread that started it ends. A crash is logged
    with its place in the code, and leaves no core file: calls would hang as long as all the memory is written.
    """
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:  # somebody has taken these CPUs away since the parent started: better slow than not at all
        print(f"Not pinned to CPU(s) {', '.join(map(str, cpus))}: {error}.", file=sys.stderr, flush=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(0)
    with contextlib.suppress(OSError):  # not every sandbox has it
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
