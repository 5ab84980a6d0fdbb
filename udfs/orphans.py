"""Ends a Python worker whose TaskManager is gone.

A TaskManager that is killed cannot end its workers, and a worker may wait for ever on a connection that nobody closes
(seen with PyFlink 2.2.1: one of two workers was still there minutes after the kill).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import cache

import psutil


def is_worker(arguments: list[str]) -> bool:
    """Whether a command line is that of a Python worker in a process of its own."""
    return any("pyflink.fn_execution" in argument for argument in arguments)


def _watch(taskmanager: psutil.Process, period_s: float) -> None:
    try:
        # is_running compares start times too, so a reused process id is not mistaken for the TaskManager.
        while taskmanager.is_running() and taskmanager.status() != psutil.STATUS_ZOMBIE:
            time.sleep(period_s)
    except psutil.NoSuchProcess:
        pass
    os._exit(1)


@cache
def end_with_taskmanager(period_s: float = 1.0) -> bool:
    """Watches, from now on, the process that started this worker; True if this is a worker.

    Called in `open` of an operator; once a process, whatever the number of operators in it.
    """
    if not is_worker(sys.orig_argv):
        return False
    # JVM → shell script → this process.
    ancestors = psutil.Process().parents()
    taskmanager = next((process for process in ancestors if process.name() == "java"), None)
    if taskmanager is None:
        os._exit(1)
    threading.Thread(target=_watch, args=(taskmanager, period_s), name="end-with-taskmanager", daemon=True).start()
    return True
