"""A Dagster sensor: each job that completes starts a run, which reads its output.

Dagster starts one run for a run key, however often the sensor names it: the key is the id of the job. Needs Dagster,
and `batchmill` where its sensors and runs are.

Environment: BATCHMILL_URL, BATCHMILL_TOKEN, JOB_NAME (of the jobs, `*` and `?` stand for any characters and for one).
"""

import os
from collections.abc import Iterator

from dagster import (
    Config,
    Definitions,
    OpExecutionContext,
    RunConfig,
    RunRequest,
    SensorEvaluationContext,
    job,
    op,
    sensor,
)

import batchmill

LATEST = 100
"""The jobs that the sensor names each time: more than complete between two of its looks."""


class Completed(Config):
    """A job that has completed."""

    job_id: str


@op
def read_output(context: OpExecutionContext, config: Completed) -> int:
    with batchmill.Client() as client:
        rows = sum(1 for _ in client.job(config.job_id).results())
    context.log.info(f"{config.job_id}: {rows} rows")
    return rows


@job
def after_batchmill() -> None:
    read_output()


@sensor(job=after_batchmill, minimum_interval_seconds=30)
def completed_jobs(_context: SensorEvaluationContext) -> Iterator[RunRequest]:
    with batchmill.Client() as client:
        found = client.jobs(LATEST, state="completed", name=os.environ.get("JOB_NAME"))
    for one in reversed(found):  # the one that was submitted first
        config = RunConfig(ops={"read_output": Completed(job_id=one.id)})
        yield RunRequest(run_key=one.id, run_config=config)


definitions = Definitions(jobs=[after_batchmill], sensors=[completed_jobs])
