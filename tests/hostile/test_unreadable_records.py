"""Records that this version cannot read, and records that end the planner's process: each harms only itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.cluster import KEYS
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.attack import Mill


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [190, 205, 240])
def test_a_job_that_could_not_be_read_back_is_refused_and_leaves_nothing(mill: Mill, levels: int) -> None:
    before = mill.call("GET", "/v1/jobs").json["jobs"]
    body = {"operator": "conf", "params": {"config": {"a": nested(levels)}}, "rows": [{"id": 1}]}
    answer = mill.call("POST", "/v1/jobs", body)
    assert answer.status in (201, 422)
    after = mill.call("GET", "/v1/jobs")
    assert after.status == 200
    assert len(after.json["jobs"]) - len(before) == (1 if answer.status == 201 else 0)


def unknown_field(spec: str) -> str:
    return json.dumps({**json.loads(spec), "invented_later": 1})


SPECS: list[tuple[str, Callable[[str], str | bytes]]] = [
    ("a field of a later version", unknown_field),
    ("no JSON", lambda _: "{"),
    ("empty", lambda _: "{}"),
    ("deep", lambda _: "[" * 400 + "]" * 400),
    ("no text", lambda spec: b"\xff" + spec.encode()),
]


@pytest.mark.parametrize(("name", "damage"), SPECS, ids=[name for name, _ in SPECS])
def test_an_unreadable_job_is_listed_cancelled_and_deleted_and_others_run(
    mill: Mill, name: str, damage: Callable[[str], str | bytes]
) -> None:
    job_id = mill.submit(rows=[{"id": 1}], pool="nobody").json["id"]
    with mill.cluster.redis() as client:
        spec = client.hget(KEYS.job(job_id), "spec")
        client.hset(KEYS.job(job_id), "spec", damage(spec))
    with mill.healthy():
        mill.require_right_job()
    listed = {job["id"]: job for job in mill.call("GET", "/v1/jobs").json["jobs"]}
    assert listed[job_id]["error"]["code"] == "unreadable_record", name
    assert mill.call("GET", f"/v1/jobs/{job_id}").json["error"]["code"] == "unreadable_record"
    assert mill.call("GET", f"/v1/jobs/{job_id}/results").code == "unreadable_record"
    until(lambda: b"batchmill_jobs_unreadable 1" in mill.call("GET", "/metrics").body, "the job to be counted")
    assert mill.call("POST", f"/v1/jobs/{job_id}/cancel").status == 200
    until(lambda: mill.call("GET", f"/v1/jobs/{job_id}").json["state"] == "cancelled", "the job's end")
    assert mill.call("DELETE", f"/v1/jobs/{job_id}").status == 204
    assert mill.call("GET", f"/v1/jobs/{job_id}").status == 404


@pytest.mark.parametrize("field", ["created_at", "state", "budget_nano"])
def test_a_field_that_is_no_number_or_state_makes_one_job_unreadable(mill: Mill, field: str) -> None:
    job_id = mill.submit(rows=[{"id": 1}], pool="nobody").json["id"]
    with mill.cluster.redis() as client:
        before = client.hget(KEYS.job(job_id), field)
        client.hset(KEYS.job(job_id), field, "never heard of")
    mill.require_right_job()
    assert mill.call("GET", "/v1/jobs").status == 200
    with mill.cluster.redis() as client:
        client.hset(KEYS.job(job_id), field, before or "")
    assert mill.call("POST", f"/v1/jobs/{job_id}/cancel").status == 200


def test_an_operator_that_cannot_be_read_does_not_hide_the_others(mill: Mill) -> None:
    with mill.cluster.redis() as client:
        client.hset(KEYS.operators(), "from_the_future", '{"name": 7}')
    try:
        answer = mill.call("GET", "/v1/operators")
        assert answer.status == 200
        assert b"from_the_future" not in answer.body
        mill.require_right_job()
    finally:
        with mill.cluster.redis() as client:
            client.hdel(KEYS.operators(), "from_the_future")


def test_a_changed_schema_stops_submits_with_its_reason(mill: Mill) -> None:
    with mill.cluster.redis() as client:
        version = client.get(KEYS.schema())
        client.set(KEYS.schema(), 999)
        try:
            answer = mill.submit(rows=[{"id": 1}])
        finally:
            client.set(KEYS.schema(), version)
    assert (answer.status, answer.code) == (503, "service_unavailable")
    assert "data formats of version 999" in answer.json["error"]["message"]
