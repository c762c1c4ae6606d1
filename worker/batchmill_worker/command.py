"""`batchmill worker`: runs a supervisor."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command()
@click.option("--pool", help="Pool to work for.  [BATCHMILL_POOL, default 'default']")
@click.option(
    "--devices",
    metavar="DEVICES",
    help="auto (GPUs, else the CPU), all, cpu, cuda:0,2, or cuda:0+1 for one worker over both."
    "  [BATCHMILL_DEVICES, default auto]",
)
@click.option(
    "--slots-per-device",
    metavar="NUMBER",
    help="Processes on each device; auto: as many as the pool needs, up to one for each core.  "
    "[BATCHMILL_SLOTS_PER_DEVICE, default 1]",
)
@click.option(
    "--operators", multiple=True, metavar="MODULE", help="Module to import; repeatable.  [BATCHMILL_OPERATORS]"
)
@click.option("--redis-url", help="The ledger and broker.  [BATCHMILL_REDIS_URL]")
@click.option("--blob-root", help="Folder or s3:// URI for rows.  [BATCHMILL_BLOB_ROOT]")
@click.option("--roots", help="Folders and URIs that jobs may read and write, with commas.  [BATCHMILL_ROOTS]")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Answer /healthz, /readyz and /metrics there.  [BATCHMILL_WORKER_LISTEN, default off]",
)
@click.option("--trace", metavar="FILE", help="Write what every shard goes through, for chrome://tracing or Perfetto.")
@click.option("--ready-file", type=click.Path(path_type=Path), hidden=True)
def worker(
    pool: str | None,
    devices: str | None,
    slots_per_device: str | None,
    operators: tuple[str, ...],
    redis_url: str | None,
    blob_root: str | None,
    roots: str | None,
    listen: str | None,
    trace: str | None,
    ready_file: Path | None,
) -> None:
    """Run workers on this machine.

    A supervisor keeps one or more processes on each device. Without a Redis and a blob store in options or
    environment, they work for the service that `batchmill up` runs on this machine.

    SIGTERM drains: running batches end, their shards go back at once; a second one ends everything at once. Settings
    come from BATCHMILL_… variables.
    """
    from batchmill.embedded.folder import join_running_service
    from batchmill.errors import InvalidSettings
    from batchmill.settings import PREFIX, WorkerSettings
    from batchmill.telemetry.logs import configure_logging
    from batchmill_worker.runtime.trace import begin_trace
    from batchmill_worker.supervisor.supervisor import Supervisor

    given = {
        "pool": pool,
        "operators": ",".join(operators) or None,
        "redis_url": redis_url,
        "blob_root": blob_root,
        "roots": roots,
        "trace": trace,
    }
    join_running_service(given)
    settings = WorkerSettings.load(devices=devices, slots_per_device=slots_per_device, worker_listen=listen, **given)
    if settings.trace:
        begin_trace(Path(settings.trace))
    if not settings.blob_root:
        raise InvalidSettings(
            "BATCHMILL_BLOB_ROOT is not set.",
            hint="Set it to the folder or s3:// URI that the coordinator uses, or start a service with `batchmill up`.",
        )
    for_slots = given | {"trace": settings.trace}
    os.environ.update({PREFIX + name.upper(): value for name, value in for_slots.items() if value})
    configure_logging(settings)
    Supervisor(settings).run(ready_file)
