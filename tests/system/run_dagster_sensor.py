"""Asks the sensor of an example, and runs what it wants: `run_dagster_sensor.py EXAMPLE`, where Dagster is installed.

Prints what came of it as a line of JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

dagster = import_module("dagster")


def main() -> None:
    spec = spec_from_file_location("example", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    with dagster.DagsterInstance.ephemeral() as instance:
        context = dagster.build_sensor_context(instance=instance, definitions=example.definitions)
        wanted = example.completed_jobs.evaluate_tick(context).run_requests
        ran = [run(example, request, instance) for request in wanted]
    print(json.dumps({"keys": [request.run_key for request in wanted], "rows": ran}))  # noqa: T201  # the test reads it


def run(example: Any, request: Any, instance: Any) -> int:
    job = example.definitions.resolve_job_def("after_batchmill")
    ended = job.execute_in_process(run_config=request.run_config, instance=instance)
    assert ended.success
    return int(ended.output_for_node("read_output"))


if __name__ == "__main__":
    main()
