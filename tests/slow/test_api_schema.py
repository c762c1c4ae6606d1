"""The OpenAPI document against the running service: `schemathesis` sends what it allows and what it forbids."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import batchmill

HERE = Path(__file__).resolve().parent
MAX_TIME_S = 60

# Of the entries that match an operation the first one counts. Admission also refuses what no schema can state, as an
# operator that no worker has: 422 for a valid body is right. So it is for the name of a stage: each job has its own.
# A query that is too long is refused before it is parsed: 431, beside the statuses that the tool expects by itself.
# Routes of OpenAI's API answer 400 instead: to a batch's time beyond 30d, or to a file of a batch that is no .jsonl.
# An operator that no worker has loaded cannot be called: 503, with the time to try again.
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "415", "422", "428", "429", "431", "5xx"]

[[operations]]
include-path = [
  "/v1/embeddings", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/files", "/v1/batches"
]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "429", "503"]

[[operations]]
include-path = "/v1/operators/{name}/call"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]

[[operations]]
include-method = ["POST", "PUT"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "503"]

[[operations]]
include-path = ["/v1/jobs/{job_id}/results", "/v1/jobs/{job_id}/dead-letters"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "503"]
"""

_OPERATIONS = re.compile(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)")


def test_schemathesis_finds_no_difference_between_the_document_and_the_service(tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    with batchmill.local(workers=1, data_dir=tmp_path / "data") as client:
        client.submit("echo", rows=[{"id": 1}, {"id": 2}]).wait(timeout=60)
        record = json.loads((tmp_path / "data" / "service.json").read_text())
        ended = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "--config-file",
                config,
                "run",
                f"{record['url']}/openapi.json",
                "--header",
                f"Authorization: Bearer {record['token']}",
                "--phases",
                "coverage,fuzzing",
                "--max-examples",
                "10",
                "--max-time",
                str(MAX_TIME_S),
                "--no-color",
            ],
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        log = (tmp_path / "data" / "logs" / "coordinator.log").read_text()
    assert ended.returncode == 0, f"{ended.stdout[:4000]}…{ended.stdout[-4000:]}\n{ended.stderr[-2000:]}"
    counts = _OPERATIONS.search(ended.stdout)
    assert counts is not None
    assert len(set(counts.groups())) == 1, f"not every operation was tested: {counts[0]}"
    assert "Traceback" not in log
