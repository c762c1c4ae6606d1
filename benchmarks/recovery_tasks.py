"""The Celery peer of the recovery benchmark: `celery -A benchmarks.recovery_tasks worker`.

With Celery's defaults a task whose worker is killed is gone: it was acknowledged when it began. `task_acks_late` is
what its documentation advises against that; the message comes again when it has been out for the visibility timeout,
at the next look for such messages: by default every tenth time of every ten seconds.
"""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.recovery_operators import hold

URL = "BENCH_RECOVERY_URL"  # redis+socket:///path?virtual_host=DATABASE
VISIBILITY_S = "BENCH_RECOVERY_VISIBILITY_S"


def make_app(url: str, visibility_s: float) -> Celery:
    """An app with the task `hold`."""
    made = Celery("recovery", broker=url)
    made.conf.update(
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": visibility_s,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    )
    made.task(hold, name="hold")
    return made


app = make_app(os.environ.get(URL, ""), float(os.environ.get(VISIBILITY_S, "3600")))
