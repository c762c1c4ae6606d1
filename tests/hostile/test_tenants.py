"""Tenants are apart: every route of the document with every kind of token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill_coordinator.api.access import OPEN_PATHS
from support.waiting import until

if TYPE_CHECKING:
    from support.attack import Answer, Mill
    from support.cluster import TOKEN
else:
    from support.cluster import TOKEN

ACME, BETA, READER, ALL_READER, METRICS = (
    "acme-token-1",
    "beta-token-1",
    "acme-reader-1",
    "all-reader-1",
    "metrics-token-1",
)
ROWS = [{"id": 1}, {"id": 2}]
INDEX = "of-acme"
FILE = Path(__file__).parent.parent / "data" / "sources" / "uint64.jsonl"
OK, HIDDEN, FORBIDDEN = "ok", "hidden", "forbidden"
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\r\n--x--\r\n'
)
BATCH = {"input_file_id": "file-unknown", "endpoint": "/v1/embeddings", "completion_window": "24h"}
FORM_TYPE = "multipart/form-data; boundary=x"


@dataclass(frozen=True)
class Case:
    """A route, and what each kind of token gets when it names what belongs to the tenant acme."""

    route: str
    owner: str
    other: str
    reader: str
    admin: str = OK
    body: Any = None


ASKED: dict[str, dict[str, Any]] = {
    "POST /v1/embeddings": {"model": "none", "input": "x"},
    "POST /v1/chat/completions": {"model": "none", "messages": [{"role": "user", "content": "x"}]},
    "POST /v1/completions": {"model": "none", "prompt": "x"},
    "POST /v1/responses": {"model": "none", "input": "x"},
}
CASES = [
    Case("POST /v1/jobs", OK, OK, FORBIDDEN, body={"operator": "echo", "rows": ROWS}),
    Case("POST /v1/check", OK, OK, FORBIDDEN, body={"operator": "echo", "source": {"path": str(FILE)}}),
    Case("GET /v1/jobs", OK, OK, OK),
    Case("GET /v1/jobs/{job_id}", OK, HIDDEN, OK),
    Case("POST /v1/jobs/{job_id}/cancel", OK, HIDDEN, FORBIDDEN),
    Case("POST /v1/jobs/{job_id}/pause", "conflict", HIDDEN, FORBIDDEN, "conflict"),
    Case("POST /v1/jobs/{job_id}/resume", "conflict", HIDDEN, FORBIDDEN, "conflict"),
    Case("GET /v1/jobs/{job_id}/events", OK, HIDDEN, OK),
    Case("GET /v1/jobs/{job_id}/log", OK, HIDDEN, OK),
    Case("GET /v1/jobs/{job_id}/cost", OK, HIDDEN, OK),
    Case("GET /v1/jobs/{job_id}/results", OK, HIDDEN, OK),
    Case("GET /v1/jobs/{job_id}/dead-letters", OK, HIDDEN, OK),
    Case("DELETE /v1/jobs/{job_id}/dead-letters", OK, HIDDEN, FORBIDDEN),
    Case("POST /v1/jobs/{job_id}/replay", "invalid_request", HIDDEN, FORBIDDEN, "invalid_request", body={}),
    Case("POST /v1/jobs/{job_id}/redo", "invalid_request", HIDDEN, FORBIDDEN, "invalid_request", body={}),
    Case(
        "POST /v1/jobs/{job_id}/rerun",
        "invalid_request",
        HIDDEN,
        FORBIDDEN,
        "invalid_request",
        body={"from_stage": "echo"},
    ),
    Case("GET /v1/costs", OK, OK, OK),
    Case("POST /v1/uploads", OK, OK, FORBIDDEN, body={"spec": {"operator": "echo"}}),
    Case("PUT /v1/uploads/{upload_id}/parts/{number}", OK, "invalid_source", FORBIDDEN, "invalid_source", body=b""),
    Case("DELETE /v1/uploads/{upload_id}", OK, OK, FORBIDDEN),
    Case("GET /v1/workers", OK, OK, OK),
    Case("GET /v1/pools", OK, OK, OK),
    Case("GET /v1/operators", OK, OK, OK),
    Case("GET /v1/cache", OK, OK, OK),
    Case("DELETE /v1/cache", FORBIDDEN, FORBIDDEN, FORBIDDEN),
    Case("GET /v1/indexes", OK, OK, OK),
    Case("GET /v1/indexes/{name}", OK, HIDDEN, OK),
    Case("POST /v1/indexes/{name}/search", OK, HIDDEN, FORBIDDEN, body={"vector": [1, 0]}),
    Case("DELETE /v1/indexes/{name}", OK, HIDDEN, FORBIDDEN, HIDDEN),
    Case("GET /v1/models", OK, OK, OK),
    Case("GET /v1/models/{name}", OK, OK, OK),
    *(
        Case(route, "model_not_found", "model_not_found", FORBIDDEN, "model_not_found", body)
        for route, body in ASKED.items()
    ),
    Case(
        "POST /v1/operators/{name}/call",
        "unknown_operator",
        "unknown_operator",
        FORBIDDEN,
        "unknown_operator",
        body={"rows": ROWS},
    ),
    Case("POST /v1/files", OK, OK, FORBIDDEN, body=FORM),
    Case("GET /v1/files", OK, OK, OK),
    Case("GET /v1/files/{file_id}", OK, HIDDEN, OK),
    Case("GET /v1/files/{file_id}/content", OK, HIDDEN, OK),
    Case("DELETE /v1/files/{file_id}", OK, HIDDEN, FORBIDDEN, HIDDEN),
    Case("POST /v1/batches", OK, OK, FORBIDDEN, body=BATCH),
    Case("GET /v1/batches", OK, OK, OK),
    Case("GET /v1/batches/{batch_id}", OK, HIDDEN, OK),
    Case("POST /v1/batches/{batch_id}/cancel", "conflict", HIDDEN, FORBIDDEN, "conflict"),
    Case("DELETE /v1/models/{name}", FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN),
    Case("GET /v1/streams", OK, OK, OK),
    Case("DELETE /v1/streams/{name}", OK, HIDDEN, FORBIDDEN, HIDDEN),
    Case("POST /v1/streams/{name}", OK, OK, FORBIDDEN, body={"rows": ROWS}),
    Case("POST /v1/jobs/{job_id}/drain", "conflict", HIDDEN, FORBIDDEN, "conflict"),
    Case("GET /v1/plans", OK, OK, OK),
    Case("POST /v1/plans", OK, OK, FORBIDDEN, body={"operator": "echo", "rows": ROWS}),
    Case("GET /v1/plans/{plan_id}", OK, HIDDEN, OK),
    Case("POST /v1/plans/{plan_id}/submit", OK, HIDDEN, FORBIDDEN),
    Case("GET /v1/trends", OK, OK, OK),
    Case("GET /v1/trials", OK, OK, OK),
    Case("GET /v1/pools/usage", FORBIDDEN, FORBIDDEN, FORBIDDEN),
    Case("GET /v1/pools/{pool}/scale", OK, OK, OK),
    Case("GET /v1/webhooks/deliveries", OK, OK, OK),
    Case("POST /v1/webhooks/deliveries/{delivery_id}/replay", OK, HIDDEN, FORBIDDEN),
    Case("GET /metrics", FORBIDDEN, FORBIDDEN, FORBIDDEN),
    Case("DELETE /v1/jobs/{job_id}", OK, HIDDEN, FORBIDDEN),
]
OF_METRICS = {"GET /metrics", "GET /v1/pools/{pool}/scale"}


def part() -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema({"id": pa.int64()})) as file:
        file.write_table(pa.table({"id": [1]}))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def ended_job(mill: Mill, token: str) -> str:
    job = str(mill.submit(token, rows=ROWS).json["id"])
    assert b'"state":"completed"' in mill.call("GET", f"/v1/jobs/{job}/events", token=token).body
    return job


def ensure_index(mill: Mill, folder: Path) -> None:
    """Let the tenant acme have an index."""
    if mill.call("GET", f"/v1/indexes/{INDEX}", token=ACME).status == 200:
        return
    rows, sink = [{"embedding": [1.0, 0.0]}], {"to": str(folder / f"{INDEX}.lance")}
    job = mill.call("POST", "/v1/jobs", {"operator": "echo", "rows": rows, "sink": sink}, ACME).json["id"]
    assert b'"state":"completed"' in mill.call("GET", f"/v1/jobs/{job}/events", token=ACME).body


def send(mill: Mill, case: Case, token: str, ids: dict[str, str]) -> Answer:
    method, path = case.route.split(" ")
    body = part() if case.body == b"" else case.body
    kind = FORM_TYPE if case.body is FORM else "application/json"
    return mill.call(method, path.format(**ids, number=0, name=INDEX, pool="default"), body, token, Content_Type=kind)


def upload_file(mill: Mill, token: str) -> str:
    return str(mill.call("POST", "/v1/files", FORM, token, Content_Type=FORM_TYPE).json["id"])


def failed_batch(mill: Mill, token: str) -> str:
    """A batch over a file of another tenant, which for this one does not exist."""
    body = {**BATCH, "input_file_id": upload_file(mill, BETA)}
    batch = str(mill.call("POST", "/v1/batches", body, token).json["id"])
    found: dict[str, Any] = {}

    def has_failed() -> bool:
        found.update(mill.call("GET", f"/v1/batches/{batch}", token=token).json)
        return bool(found["status"] == "failed")

    until(has_failed, "the end of the batch")
    assert found["errors"]["data"][0]["param"] == "file_id"
    return batch


def ensure_stream(mill: Mill) -> None:
    """Let the tenant acme, and it alone, have a stream."""
    assert mill.call("POST", f"/v1/streams/{INDEX}", {"rows": ROWS}, ACME).status < 300


def ready_plan(mill: Mill) -> str:
    """A plan of the tenant acme whose sample has been run."""
    plan = str(mill.call("POST", "/v1/plans", {"operator": "echo", "rows": ROWS}, ACME).json["id"])
    until(lambda: mill.call("GET", f"/v1/plans/{plan}", token=ACME).json["state"] == "ready", "the plan")
    return plan


def sent_message(mill: Mill) -> str:
    """A message about a job of the tenant acme, whose receiver is nowhere."""
    job = {"operator": "echo", "rows": ROWS, "webhooks": [{"name": "nowhere"}]}
    assert mill.call("POST", "/v1/jobs", job, ACME).status < 300
    found: list[str] = []

    def is_listed() -> bool:
        page = mill.call("GET", "/v1/webhooks/deliveries", token=ACME).json["deliveries"]
        found.extend(one["id"] for one in page)
        return bool(found)

    until(is_listed, "the message")
    return found[0]


def outcome(answer: Answer) -> str:
    if answer.status < 300:
        return OK
    return {"not_found": HIDDEN, "invalid_api_key": "unauthorized"}.get(answer.code, answer.code)


def test_the_cases_are_all_the_routes_of_the_document(mill: Mill) -> None:
    paths = mill.call("GET", "/openapi.json", token="").json["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert {case.route for case in CASES} == {route for route in routes if route.split(" ")[1] not in OPEN_PATHS}


@pytest.mark.parametrize("case", CASES, ids=[case.route for case in CASES])
def test_a_token_reaches_what_its_tenant_has_and_nothing_else(mill: Mill, case: Case, tmp_path: Path) -> None:
    job = ended_job(mill, ACME)
    if "indexes/{name}" in case.route:
        ensure_index(mill, tmp_path)
    if case.route == "DELETE /v1/streams/{name}":
        ensure_stream(mill)
    upload = mill.call("POST", "/v1/uploads", {"spec": {"operator": "echo"}}, ACME).json["upload"]
    ids = {"job_id": job, "upload_id": upload, "file_id": upload_file(mill, ACME), "batch_id": failed_batch(mill, ACME)}
    if "{plan_id}" in case.route:
        ids["plan_id"] = ready_plan(mill)
    if "{delivery_id}" in case.route:
        ids["delivery_id"] = sent_message(mill)
    for token in ("", "wrong-token-1", METRICS):
        expected = OK if token == METRICS and case.route in OF_METRICS else "unauthorized"
        assert outcome(send(mill, case, token, ids)) == expected, token
    writes = not case.route.startswith("GET")
    assert outcome(send(mill, case, ALL_READER, ids)) == (FORBIDDEN if writes else OK)
    assert outcome(send(mill, case, READER, ids)) == case.reader
    assert outcome(send(mill, case, BETA, ids)) == case.other
    assert mill.call("GET", f"/v1/jobs/{job}", token=ACME).status == 200
    assert outcome(send(mill, case, ACME, ids)) == case.owner
    if case.route == "DELETE /v1/jobs/{job_id}":
        ids["job_id"] = ended_job(mill, ACME)
    assert outcome(send(mill, case, TOKEN, ids)) == case.admin
    mill.call("DELETE", f"/v1/uploads/{upload}", token=ACME)


def test_a_list_has_the_jobs_of_the_tenant_alone_and_an_admin_sees_all(mill: Mill) -> None:
    mine, other = ended_job(mill, ACME), ended_job(mill, BETA)
    waiting = str(mill.submit(BETA, rows=ROWS, pool="nobody").json["id"])

    def listed(token: str, query: str = "limit=1000") -> set[str]:
        return {job["id"] for job in mill.call("GET", f"/v1/jobs?{query}", token=token).json["jobs"]}

    assert mine in listed(ACME)
    assert mine in listed(READER)
    assert not {other, waiting} & listed(ACME)
    assert {mine, other, waiting} <= listed(TOKEN)
    assert waiting in listed(BETA, "live=true")
    assert waiting not in listed(ACME, "live=true")
    assert waiting in listed(ALL_READER, "live=true")
    assert mill.call("GET", f"/v1/jobs?before={other}", token=ACME).status == 404
    page = mill.call("GET", "/v1/jobs?limit=1", token=BETA).json
    assert (page["jobs"][0]["id"], page["next"]) == (waiting, waiting)
    assert other in listed(BETA, f"limit=1&before={waiting}")
    mill.call("POST", f"/v1/jobs/{waiting}/cancel", token=BETA)


def test_idempotency_keys_of_two_tenants_do_not_meet(mill: Mill) -> None:
    request = {"rows": ROWS, "idempotency_key": "day-1"}
    first, second = mill.submit(ACME, **request), mill.submit(BETA, **request)
    assert (first.status, second.status) == (201, 201)
    assert first.json["id"] != second.json["id"]
    assert mill.submit(ACME, **request).json["id"] == first.json["id"]
    assert mill.submit(BETA, rows=[{"id": 9}], idempotency_key="day-1").code == "conflict"


def test_an_upload_of_another_tenant_cannot_be_submitted(mill: Mill) -> None:
    upload = mill.call("POST", "/v1/uploads", {"spec": {"operator": "echo"}}, ACME).json["upload"]
    assert mill.call("PUT", f"/v1/uploads/{upload}/parts/0", part(), ACME).status == 204
    source = {"upload": upload, "parts": 1}
    assert mill.submit(BETA, source=source).code == "invalid_source"
    assert mill.submit(ACME, source=source).status == 201


def test_results_between_stages_are_read_by_jobs_of_their_tenant_alone(mill: Mill) -> None:
    stages = [{"operator": "echo", "name": "a", "keep": True}, {"operator": "echo", "name": "b"}]
    job = str(mill.call("POST", "/v1/jobs", {"stages": stages, "rows": ROWS}, ACME).json["id"])
    assert b'"state":"completed"' in mill.call("GET", f"/v1/jobs/{job}/events", token=ACME).body
    for source in ({"job": job, "stage": "a"}, {"job": job, "stage": "no"}):
        assert mill.submit(BETA, source=source).code == "not_found"
        assert mill.submit(TOKEN, source=source).code == "not_found"
    assert mill.submit(ACME, source={"job": "job-none", "stage": "a"}).code == "not_found"
    assert mill.submit(ACME, source={"job": job, "stage": "a"}).status == 201


def test_results_of_another_tenant_are_no_table_and_nothing_is_said_of_its_stages(mill: Mill) -> None:
    stages = [{"operator": "echo", "name": "secret", "keep": True}, {"operator": "echo", "name": "b"}]
    job = str(mill.call("POST", "/v1/jobs", {"stages": stages, "rows": ROWS}, ACME).json["id"])
    assert b'"state":"completed"' in mill.call("GET", f"/v1/jobs/{job}/events", token=ACME).body
    for base in (f"job:{job}/secret", f"job:{job}/no", f"job:{job}"):
        answer = mill.submit(BETA, operator="knn", rows=[{"embedding": [1.0]}], params={"base": base})
        assert answer.code == "invalid_params"
        assert b"secret'" not in answer.body
        assert b"no job" in answer.body


def test_costs_are_those_of_the_tenant_and_an_admin_sees_all(mill: Mill) -> None:
    ended_job(mill, ACME)
    ended_job(mill, BETA)

    def tenants(token: str) -> set[str]:
        return {each["tenant"] for each in mill.call("GET", "/v1/costs", token=token).json["tenants"]}

    until(lambda: {"acme", "beta"} <= tenants(TOKEN), "the charges")
    assert (tenants(ACME), tenants(READER), tenants(BETA)) == ({"acme"}, {"acme"}, {"beta"})
    assert mill.call("GET", "/v1/costs", token=ACME).json["operators"] == []


def test_an_unfinished_output_of_another_tenant_is_not_taken_over(mill: Mill, tmp_path: Any) -> None:
    request = {"rows": [{"id": n} for n in range(50)], "pool": "nobody", "output": {"path": str(tmp_path / "out")}}
    job = mill.submit(ACME, **request).json["id"]
    mill.call("POST", f"/v1/jobs/{job}/cancel", token=ACME)
    assert b'"state":"cancelled"' in mill.call("GET", f"/v1/jobs/{job}/events", token=ACME).body
    refused = mill.submit(BETA, **request)
    assert (refused.status, refused.code) == (422, "invalid_output")
    resumed = mill.submit(ACME, **request)
    assert (resumed.status, resumed.json["resumed_from"]) == (201, job)
    mill.call("POST", f"/v1/jobs/{resumed.json['id']}/cancel", token=ACME)


@pytest.mark.parametrize(
    ("model", "code"), [("other/model", "invalid_params"), ("acme/model", None), ("/no/such/folder", None)]
)
def test_a_hub_model_that_is_not_on_the_list_is_refused_at_submission(mill: Mill, model: str, code: str | None) -> None:
    body = {"operator": "embed", "params": {"model": model}, "rows": [{"text": "a"}], "pool": "nobody"}
    answer = mill.call("POST", "/v1/jobs", body)
    assert (answer.code if code else answer.status) == (code or 201)
    if not code:
        mill.call("POST", f"/v1/jobs/{answer.json['id']}/cancel")


def test_no_log_has_a_token_of_any_tenant(mill: Mill) -> None:
    mill.call("GET", f"/v1/jobs/{BETA}")
    log = mill.cluster.log("a")
    assert not [token for token in (ACME, BETA, READER, ALL_READER, METRICS) if token in log], json.dumps(log[-500:])
