"""Runs the DAG of an example once, in this process, where Airflow is installed: `run_airflow_dag.py EXAMPLE`.

Prints what became of it as a line of JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location


def main() -> None:
    spec = spec_from_file_location("example", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    ended = example.DAG.test()
    model, session = import_module("airflow.models.xcom").XComModel, import_module("airflow.utils.session")
    with session.create_session() as opened:
        rows = opened.scalars(model.get_many(run_id=ended.run_id, dag_ids=[ended.dag_id])).all()
        values = {row.task_id: model.deserialize_value(row) for row in rows if row.key == "return_value"}
    print(json.dumps({"state": str(ended.state), "values": values}))  # noqa: T201  # the test reads it


if __name__ == "__main__":
    main()
