"""Runs the DAG of an example twice, in an environment that has Airflow: `run_airflow_dag.py EXAMPLE`.

The second time, the run has the id of the first one. Prints what became of both as a line of JSON.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

AT = datetime(2026, 1, 1, tzinfo=UTC)  # a run is named after its time


def main() -> None:
    spec = spec_from_file_location("example", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    found = [run(example.DAG), run(example.DAG)]
    print(json.dumps(found))  # noqa: T201  # the test reads it


def run(dag: Any) -> dict[str, Any]:
    ended = dag.test(logical_date=AT)
    model, session = import_module("airflow.models.xcom"), import_module("airflow.utils.session")
    with session.create_session() as opened:
        rows = opened.scalars(model.XComModel.get_many(run_id=ended.run_id, dag_ids=[ended.dag_id])).all()
        values = {row.task_id: model.XComModel.deserialize_value(row) for row in rows if row.key == "return_value"}
    return {"state": str(ended.state), "values": values}


if __name__ == "__main__":
    main()
