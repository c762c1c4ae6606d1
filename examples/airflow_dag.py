"""An Airflow DAG: a task submits a job, and a sensor waits for its end without keeping a slot of Airflow's workers.

A task that Airflow tries again gives the job that is there already: the idempotency key is the id of the run. Needs
Airflow 3, and `batchmill` where Airflow's tasks run.

Environment: BATCHMILL_URL, BATCHMILL_TOKEN, OPERATOR, PARAMS (JSON), SOURCE, OUTPUT (a folder for the outputs, one
below it for each run).
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

import batchmill

if TYPE_CHECKING:
    from airflow.sdk import Context


class JobSensor(BaseSensorOperator):
    """Waits until a job has ended; it gives the job's counts. Fails at once if the job did not complete."""

    template_fields = ("job_id",)

    def __init__(self, *, job_id: str, mode: str = "reschedule", poke_interval: float = 30.0, **options: Any) -> None:
        super().__init__(mode=mode, poke_interval=poke_interval, **options)
        self.job_id = job_id

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002  # Airflow names it
        with batchmill.Client() as client:
            status = client.job(self.job_id).status()
        if not status.is_final:
            return PokeReturnValue(is_done=False)
        if status.state != "completed":
            reason = status.error.message if status.error else ""
            raise AirflowFailException(f"job {status.id} ended {status.state}. {reason}")
        return PokeReturnValue(
            is_done=True, xcom_value={"job": status.id, "rows_done": status.rows_done, "rows_dead": status.rows_dead}
        )


@dag(schedule=None)
def batchmill_job() -> None:
    @task
    def submit() -> str:
        run = hashlib.sha256(get_current_context()["run_id"].encode()).hexdigest()
        with batchmill.Client() as client:
            job = client.submit(
                os.environ["OPERATOR"],
                source=os.environ["SOURCE"],
                params=json.loads(os.environ.get("PARAMS", "{}")),
                output=f"{os.environ['OUTPUT'].rstrip('/')}/{run}",
                idempotency_key=f"airflow-{run}",
            )
        return job.id

    @task
    def report(ended: dict[str, Any]) -> None:
        print(f"{ended['job']}: {ended['rows_done']} rows, {ended['rows_dead']} failed")

    report(JobSensor(task_id="ended", job_id=submit()).output)


DAG = batchmill_job()
