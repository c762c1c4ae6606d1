"""The OpenAPI document: every route lists what it may answer."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest

from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.api.app import create_app
from batchmill_coordinator.batches.files import UploadPurpose
from batchmill_coordinator.endpoints.known import ENDPOINTS, endpoint_of

OPEN = {"/healthz", "/readyz"}
NAMED = ("{job_id}", "{name}", "{file_id}", "{batch_id}", "{plan_id}", "{delivery_id}")
REFERS = {
    *(("get", "/v1/jobs"), ("post", "/v1/jobs"), ("get", "/v1/files"), ("get", "/v1/batches"), ("get", "/v1/plans")),
    ("get", "/v1/webhooks/deliveries"),
}


def routes() -> list[tuple[str, str, dict[str, Any]]]:
    service = SimpleNamespace(settings=CoordinatorSettings(tokens=("token",)))
    paths = create_app(cast("Any", service)).openapi()["paths"]
    return [(method, path, about) for path, methods in paths.items() for method, about in methods.items()]


@pytest.mark.parametrize(("method", "path", "about"), [each for each in routes() if each[1] not in OPEN])
def test_a_route_asks_for_a_token_and_lists_the_statuses_that_any_route_has(
    method: str, path: str, about: dict[str, Any]
) -> None:
    statuses = set(about["responses"]) | (
        {"422"} if path.startswith(BAD_REQUESTS) else set()
    )  # these answer 400 instead
    assert about["security"] == [{"token": []}]
    assert statuses >= {"400", "401", "422", "431", "500", "503", "507"}
    assert ("403" in statuses) == (method != "get" or path in ("/metrics", "/v1/pools/usage"))
    makes = path.endswith("/call") or (method, path) == ("post", "/v1/streams/{name}")  # the name may be a new one
    named = any(name in path for name in NAMED) and not makes
    assert ("404" in statuses) == (named or (method, path) in REFERS or path in LENIENT)


@pytest.mark.parametrize(("method", "path", "about"), routes())
def test_every_error_has_the_envelope_as_its_schema(method: str, path: str, about: dict[str, Any]) -> None:
    for status, answer in about["responses"].items():
        if status >= "400" and (path, status) != ("/readyz", "503"):
            schema = answer["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorEnvelope"}, (method, path, status)


def test_bodies_have_schemas_that_refuse_unknown_fields() -> None:
    service = SimpleNamespace(settings=CoordinatorSettings(tokens=("token",)))
    document = create_app(cast("Any", service)).openapi()
    for method, path, about in routes():
        body = about.get("requestBody")
        assert (body is not None) == (path in BODIES.get(method, ())), (method, path)
        for content in (body or {"content": {}})["content"].values():
            name = content["schema"].get("$ref", "").rpartition("/")[2]
            is_strict = not name or document["components"]["schemas"][name].get("additionalProperties") is False
            assert is_strict is (path not in LENIENT)


BAD_REQUESTS = (
    "/v1/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/files",
    "/v1/batches",
)
LENIENT = ("/v1/embeddings", "/v1/chat/completions", "/v1/completions", "/v1/responses")
"""Routes of OpenAI's API, whose clients send fields that are newer than this service."""

BODIES = {
    "post": (
        "/v1/jobs",
        "/v1/check",
        "/v1/plans",
        "/v1/jobs/{job_id}/replay",
        "/v1/jobs/{job_id}/redo",
        "/v1/jobs/{job_id}/rerun",
        "/v1/streams/{name}",
        "/v1/uploads",
        "/v1/indexes/{name}/search",
        "/v1/files",
        "/v1/batches",
        "/v1/operators/{name}/call",
        *LENIENT,
    ),
    "put": ("/v1/uploads/{upload_id}/parts/{number}",),
}


def test_results_events_and_metrics_have_their_media_types() -> None:
    found = {path: set(about["responses"]["200"]["content"]) for _, path, about in routes() if path in MEDIA}
    assert found == MEDIA


MEDIA = {
    "/v1/jobs/{job_id}/results": {"application/vnd.apache.arrow.stream", "application/x-ndjson"},
    "/v1/jobs/{job_id}/events": {"text/event-stream"},
    "/metrics": {"text/plain"},
}


def test_the_form_of_a_file_and_of_a_batch_say_which_values_are_taken() -> None:
    service = SimpleNamespace(settings=CoordinatorSettings(tokens=("token",)))
    document = create_app(cast("Any", service)).openapi()
    form = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    batch = document["components"]["schemas"]["BatchForm"]["properties"]
    assert set(form["properties"]["purpose"]["enum"]) == set(get_args(UploadPurpose))
    assert form["properties"]["expires_after[seconds]"] == {"type": "integer", "minimum": 3600, "maximum": 2_592_000}
    for url in (
        *ENDPOINTS,
        "/v1/operators/echo",
        "",
        "/v1/operators/",
        "/v1/operators/" + 129 * "n",
        "/v1/embeddings2",
    ):
        matches = re.search(batch["endpoint"]["pattern"], url) is not None
        assert matches is (endpoint_of(url) is not None), url
    assert [re.search(batch["completion_window"]["pattern"], text) is not None for text in ("24h", "day")] == [
        True,
        False,
    ]
