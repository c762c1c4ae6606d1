"""The HTTP API as any client meets it, over a real socket."""

from __future__ import annotations

import base64
import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Api:
    host: str
    token: str

    def call(self, method: str, path: str, body: bytes | Any = None, **headers: str | None) -> Answer:
        sent: dict[str, Any] = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            kept = {name: value for name, value in sent.items() if value is not None}
            connection.request(method, path, data, kept)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()


@pytest.fixture
def api(service_record: dict[str, str]) -> Api:
    return Api(urlsplit(service_record["url"]).netloc, service_record["token"])


def submit(api: Api, **request: Any) -> str:
    answer = api.call("POST", "/v1/jobs", {"operator": "echo", **request})
    assert answer.status == 201, answer.body
    return str(answer.json["id"])


def error_of(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = answer.json["error"]
    assert set(error) == {"code", "message", "hint", "details", "type", "param"}
    return error


def test_a_job_goes_through_with_nothing_but_json(api: Api) -> None:
    rows = [{"id": n, "text": f"t{n}"} for n in range(20)]
    job = submit(api, rows=rows)
    answer = api.call("GET", f"/v1/jobs/{job}/results?wait_s=30", Accept="application/x-ndjson")
    assert [json.loads(line) for line in answer.body.splitlines()] == rows
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert (answer.headers["batchmill-rows"], answer.headers["batchmill-end"]) == ("20", "true")


def test_results_are_an_arrow_stream_with_a_cursor(api: Api) -> None:
    job = submit(api, rows=[{"id": n} for n in range(1000)])
    cursor, ids = "", list[int]()
    while True:
        answer = api.call("GET", f"/v1/jobs/{job}/results?wait_s=30&cursor={cursor}")
        ids += (
            pa.ipc.open_stream(answer.body).read_all()["id"].to_pylist()
            if answer.headers["batchmill-rows"] != "0"
            else []
        )
        cursor = answer.headers["batchmill-next-cursor"]
        if answer.headers["batchmill-end"] == "true":
            break
    assert ids == list(range(1000))


def test_results_without_rows_keep_their_columns_on_every_page_and_after_the_end(api: Api) -> None:
    rows = pa.BufferOutputStream()
    table = pa.table({"id": pa.array([], pa.int64())})
    with pa.ipc.new_stream(rows, table.schema) as stream:
        stream.write_table(table)
    job = submit(api, rows_arrow=base64.b64encode(rows.getvalue()).decode())
    api.call("GET", f"/v1/jobs/{job}/events")  # until it has ended
    for cursor in ("", "1"):
        answer = api.call("GET", f"/v1/jobs/{job}/results?wait_s=30&cursor={cursor}")
        assert answer.headers["batchmill-end"] == "true"
        assert (cursor, pa.ipc.open_stream(answer.body).read_all().schema) == (cursor, table.schema)


def test_events_end_with_the_final_status(api: Api) -> None:
    job = submit(api, rows=[{"id": 1}])
    answer = api.call("GET", f"/v1/jobs/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [block for block in answer.body.decode().split("\n\n") if block.startswith("event: status")]
    states = [json.loads(block.partition("data: ")[2].partition("\n")[0])["state"] for block in events]
    assert states[-1] == "completed"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/workers", "/v1/operators", "/v1/jobs/x/results", "/nope"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic abc", "Bearer "])
def test_every_route_but_health_asks_for_a_token(api: Api, path: str, header: str | None) -> None:
    answer = api.call("GET", path, Authorization=header)
    assert (answer.status, error_of(answer)["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/docs", "/openapi.json"])
def test_health_and_the_pages_about_the_api_are_open(api: Api, path: str) -> None:
    assert api.call("GET", path, Authorization=None).status == 200


def test_a_browser_without_a_token_reads_how_to_send_one(api: Api) -> None:
    for path in ("/", "/docs"):
        assert b"Authorization: Bearer TOKEN" in api.call("GET", path, Authorization=None).body
    assert b"<code>POST /v1/jobs</code>" in api.call("GET", "/docs", Authorization=None).body


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", "GET, POST"),
        ("POST", "/v1/jobs/job-1", "DELETE, GET"),
        ("GET", "/v1/uploads", "POST"),
        ("PATCH", "/healthz", "GET"),
    ],
)
def test_a_method_that_a_route_lacks_is_answered_with_those_it_has(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answer = api.call(method, path)
    assert (answer.status, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


def test_an_unknown_name_in_the_query_is_answered_with_the_nearest(api: Api) -> None:
    answer = api.call("GET", "/v1/jobs?limt=5")
    assert (answer.status, error_of(answer)["details"]) == (422, {"field": "limt"})
    assert "Did you mean 'limit'?" in error_of(answer)["hint"]


def test_a_status_shows_what_the_job_was_run_with(api: Api) -> None:
    asked = {"carry": ["id"], "retry": {"max_attempts": 2}, "batch": {"size": 7}, "cache": False, "budget": 5.0}
    job = submit(api, rows=[{"id": 1}], **asked)
    shown = api.call("GET", f"/v1/jobs/{job}").json["request"]
    assert (shown["carry"], shown["budget"], shown["params"], shown["source"]) == (["id"], 5.0, {}, None)
    assert (shown["retry"]["max_attempts"], shown["batch"]["size"]) == (2, 7)
    assert api.call("GET", "/v1/jobs?limit=1").json["jobs"][0]["request"] is None


LONE = b'"\\ud800"'


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"operator": "echo", "rows": [{"a": ' + LONE + b"}]}", "rows.0.a"),
        (b'{"operator": "echo", "rows": [{' + LONE + b": 1}]}", "rows.0"),
        (b'{"operator": "echo", "rows": [], "params": {"x": ' + LONE + b"}}", "params.x"),
        (b'{"operator": "echo", "rows": [], "carry": [' + LONE + b"]}", "carry.0"),
        (b'{"operator": "echo", "rows": [], "retry": {"retry_on": [' + LONE + b"]}}", "retry.retry_on.0"),
        (b'{"operator": "echo", "rows": [], "name": ' + LONE + b"}", "name"),
    ],
)
def test_text_that_utf_8_cannot_encode_is_refused_with_its_field(api: Api, body: bytes, field: str) -> None:
    answer = api.call("POST", "/v1/jobs", body)
    assert (answer.status, error_of(answer)["details"]) == (422, {"field": field})
    assert "lone surrogate" in error_of(answer)["message"]


@pytest.mark.parametrize("depth", [33, 100, 250, 5000])
def test_rows_that_are_nested_too_deep_are_refused(api: Api, depth: int) -> None:
    value = b"[" * depth + b"1" + b"]" * depth
    answer = api.call("POST", "/v1/jobs", b'{"operator": "echo", "rows": [{"a": ' + value + b"}]}")
    assert (answer.status, error_of(answer)["code"]) in [(422, "invalid_rows"), (422, "invalid_request")]


def test_that_rows_have_lineage_is_for_replays_to_say(api: Api) -> None:
    source = {"upload": "upload-1", "parts": 1, "lineage": True}
    answer = api.call("POST", "/v1/jobs", {"operator": "echo", "source": source})
    assert (answer.status, error_of(answer)["details"]["field"]) == (422, "source.lineage")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_parameter_that_is_no_finite_number_is_refused_with_its_name(api: Api, value: str) -> None:
    body = f'{{"operator": "embed", "rows": [], "params": {{"model": "m", "max_tokens": {value}}}}}'
    answer = api.call("POST", "/v1/jobs", body.encode())
    assert (answer.status, error_of(answer)["details"]["parameter"]) == (422, "max_tokens")


def test_an_arrow_column_name_that_is_not_utf_8_is_refused(api: Api) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema({"namename": pa.int64()})) as stream:
        stream.write_table(pa.table({"namename": [1]}))
    broken = sink.getvalue().to_pybytes().replace(b"namename", b"name\xff\xfe\xfd\xfc")
    answer = api.call("POST", "/v1/jobs", {"operator": "echo", "rows_arrow": base64.b64encode(broken).decode()})
    assert (answer.status, error_of(answer)["code"]) == (422, "invalid_rows")
    assert "not UTF-8" in error_of(answer)["message"]


@pytest.mark.parametrize(
    "rows",
    [[{f"c{n}": 1 for n in range(20_000)}], [{f"c{n}": 1} for n in range(9_000)]],
    ids=["too many columns", "too many cells"],
)
def test_rows_with_too_many_columns_or_cells_are_refused_at_once(api: Api, rows: list[dict[str, int]]) -> None:
    started = time.monotonic()
    answer = api.call("POST", "/v1/jobs", {"operator": "echo", "rows": rows})
    assert (answer.status, error_of(answer)["code"]) == (422, "invalid_rows")
    assert time.monotonic() - started < 30  # without the limits it takes minutes


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'"text"', b"[1]"])
def test_a_body_that_is_no_json_object_is_told(api: Api, body: bytes) -> None:
    answer = api.call("POST", "/v1/jobs", body)
    assert answer.status == 422
    assert error_of(answer)["code"] == "invalid_request"
    assert error_of(answer)["details"] == {"field": "body"}


def test_a_missing_content_type_is_told(api: Api) -> None:
    answer = api.call("POST", "/v1/jobs", {"operator": "echo", "rows": []}, Content_Type="text/plain")
    assert "'text/plain'" in error_of(answer)["message"]
    assert "Content-Type: application/json" in error_of(answer)["hint"]
    assert error_of(answer)["details"] == {"field": "body"}


def test_an_unknown_field_is_answered_with_the_nearest(api: Api) -> None:
    answer = api.call("POST", "/v1/jobs", {"operator": "echo", "rows": [], "prams": {}})
    assert "Did you mean 'params'?" in error_of(answer)["hint"]


def test_a_body_that_is_too_large_is_stopped(api: Api) -> None:
    answer = api.call("POST", "/v1/jobs", b'{"operator": "' + b"x" * (9 << 20) + b'"}')
    assert (answer.status, error_of(answer)["code"]) == (413, "payload_too_large")


def test_a_part_that_is_no_arrow_file_is_refused(api: Api) -> None:
    upload = api.call("POST", "/v1/uploads", {"spec": {"operator": "echo"}}).json["upload"]
    answer = api.call("PUT", f"/v1/uploads/{upload}/parts/0", b"not arrow")
    assert (answer.status, error_of(answer)["code"]) == (422, "invalid_rows")
    assert api.call("PUT", "/v1/uploads/upl-00000000000000000000/parts/0", b"x").status == 422


def test_an_upload_with_a_missing_part_is_refused_and_stays_open(api: Api) -> None:
    upload = api.call("POST", "/v1/uploads", {"spec": {"operator": "echo"}}).json["upload"]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema({"id": pa.int64()})) as file:
        file.write_table(pa.table({"id": [1, 2]}))
    assert api.call("PUT", f"/v1/uploads/{upload}/parts/0", sink.getvalue().to_pybytes()).status == 204
    source = {"upload": upload, "parts": 2}
    assert error_of(api.call("POST", "/v1/jobs", {"operator": "echo", "source": source}))["code"] == "invalid_source"
    job = submit(api, source={"upload": upload, "parts": 1})
    assert api.call("GET", f"/v1/jobs/{job}/results?wait_s=30").headers["batchmill-rows"] == "2"
    assert error_of(api.call("POST", "/v1/jobs", {"operator": "echo", "source": source}))["code"] == "invalid_source"


def test_the_openapi_document_lists_the_routes(api: Api) -> None:
    paths = api.call("GET", "/openapi.json").json["paths"]
    expected = {
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/results",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/cancel",
        "/v1/workers",
        "/v1/operators",
    }
    assert expected <= set(paths)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/jobs/job-none", 404),
        ("GET", "/v1/jobs/job-none/results", 404),
        ("GET", "/v1/jobs/job-none/events", 404),
        ("POST", "/v1/jobs/job-none/cancel", 404),
        ("POST", "/v1/jobs/job-none/pause", 404),
        ("POST", "/v1/jobs/job-none/resume", 404),
        ("DELETE", "/v1/jobs/job-none", 404),
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/jobs", 405),
        ("GET", "/v1/jobs?limit=0", 422),
        ("GET", "/v1/jobs?limit=x", 422),
    ],
)
def test_errors_come_in_one_envelope(api: Api, method: str, path: str, status: int) -> None:
    answer = api.call(method, path)
    assert answer.status == status
    error_of(answer)


def test_a_deadline_that_has_passed_is_refused_before_rows_are_sent(api: Api) -> None:
    spec = {"operator": "echo", "deadline_at": 1_000_000_000}
    for answer in (api.call("POST", "/v1/jobs", {**spec, "rows": []}), api.call("POST", "/v1/uploads", {"spec": spec})):
        assert (answer.status, error_of(answer)["details"]) == (422, {"field": "deadline_at"})
        assert "the deadline passed" in error_of(answer)["message"]


def test_a_deadline_may_be_a_span_from_when_the_job_is_accepted(api: Api) -> None:
    spec = {"operator": "echo", "rows": [{"id": 1}], "pool": "empty-pool", "idempotency_key": "with-a-span"}
    accepted = api.call("POST", "/v1/jobs", {**spec, "deadline": "1h 30m"})
    status = json.loads(accepted.body)
    assert status["deadline_at"] == pytest.approx(status["created_at"] + 5400, abs=5)
    again = api.call("POST", "/v1/jobs", {**spec, "deadline": 5400})
    assert (again.status, json.loads(again.body)["id"]) == (200, status["id"])
    both = api.call("POST", "/v1/jobs", {**spec, "deadline": 1, "deadline_at": 2e9, "idempotency_key": None})
    assert (both.status, "either deadline or deadline_at" in error_of(both)["message"]) == (422, True)


def test_an_ended_job_is_deleted_and_one_that_runs_is_a_conflict(api: Api) -> None:
    waiting = submit(api, rows=[{"id": 1}], pool="empty-pool")
    conflict = api.call("DELETE", f"/v1/jobs/{waiting}")
    assert (conflict.status, error_of(conflict)["code"]) == (409, "conflict")
    api.call("POST", f"/v1/jobs/{waiting}/cancel")
    assert b'"state":"cancelled"' in api.call("GET", f"/v1/jobs/{waiting}/events").body
    assert api.call("DELETE", f"/v1/jobs/{waiting}").status == 204
    assert api.call("GET", f"/v1/jobs/{waiting}").status == 404


def test_a_wrong_cursor_or_type_is_told(api: Api) -> None:
    job = submit(api, rows=[])
    assert error_of(api.call("GET", f"/v1/jobs/{job}/results?cursor=x"))["code"] == "invalid_request"
    assert error_of(api.call("GET", f"/v1/jobs/{job}/results", Accept="image/png"))["code"] == "invalid_request"


def test_rows_too_many_to_ride_inline_go_through_too(api: Api) -> None:
    rows = [{"id": n, "text": "x" * 100} for n in range(2000)]
    job = submit(api, rows=rows)
    answer = api.call("GET", f"/v1/jobs/{job}/events")
    assert b'"state":"completed"' in answer.body
    listed = api.call("GET", "/v1/jobs?limit=1").json
    assert (listed["jobs"][0]["id"], listed["next"]) == (job, job)


def test_a_log_is_paged_by_its_cursor_and_an_odd_cursor_is_refused(api: Api) -> None:
    job = submit(api, rows=[{"id": 1}])
    api.call("GET", f"/v1/jobs/{job}/events")
    told, cursor = [], ""
    while True:
        page = api.call("GET", f"/v1/jobs/{job}/log?limit=1&cursor={cursor}").json
        told += [entry["event"] for entry in page["entries"]]
        cursor = page["next"]
        if page["is_final"]:
            break
    assert told == ["accepted", "started", "ended"]
    assert page["dropped"] == 0
    for query in ("cursor=x", "level=loud", "limit=0", "limit=1001"):
        assert error_of(api.call("GET", f"/v1/jobs/{job}/log?{query}"))["code"] == "invalid_request"
    assert api.call("GET", "/v1/jobs/job-none/log").status == 404


def test_pools_and_live_jobs_tell_what_waits(api: Api) -> None:
    waiting = submit(api, rows=[{"id": n} for n in range(3)], pool="nobody")
    pools = {pool["name"]: pool for pool in api.call("GET", "/v1/pools").json["pools"]}
    assert pools["default"]["workers"] == 2
    assert pools["default"]["capacity"] == 4
    assert (pools["nobody"]["workers"], pools["nobody"]["jobs"]) == (0, 1)
    live = [job["id"] for job in api.call("GET", "/v1/jobs?live=true").json["jobs"]]
    assert waiting in live
    api.call("POST", f"/v1/jobs/{waiting}/cancel")
    api.call("GET", f"/v1/jobs/{waiting}/events")
    assert waiting not in [job["id"] for job in api.call("GET", "/v1/jobs?live=true").json["jobs"]]


@pytest.mark.parametrize("path", ["/v1/pools", "/v1/jobs/job-1/log"])
def test_what_goes_on_is_told_to_nobody_without_a_token(api: Api, path: str) -> None:
    assert api.call("GET", path, Authorization=None).status == 401
