"""Keeps a device process in order whatever its operators do to standard streams, signals and forks."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from typing import TYPE_CHECKING

from batchmill_worker.supervisor.slot_files import DUMP_SIGNAL

if TYPE_CHECKING:
    from typing import TextIO


def protect_process() -> TextIO:
    """Set up what operators must not break; return a stream for the log, standard error on a descriptor of its own.

    An operator may replace or close `sys.stderr`, and close its descriptor. A process that an operator forks, as a
    `multiprocessing.Pool` does, begins without the worker's signal handlers, which would keep it from being ended.
    """
    log_stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, errors="backslashreplace")
    faulthandler.register(DUMP_SIGNAL, file=log_stream, all_threads=True)
    os.register_at_fork(after_in_child=_reset_signals)
    return log_stream


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        elif callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
