"""Which of the faults of a request is named, where a value may be of several kinds."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from batchmill.jobs.job import JobRequest
from batchmill.jobs.streams.pushing import PushRequest
from batchmill_coordinator.api.validation import explain
from batchmill_coordinator.endpoints.validation import first_fault


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"kind": "push", "stream": "s", "idle_s": -1},
            "field 'source.idle_s': input should be greater than 0, got -1.",
        ),
        ({"kind": "push", "stream": "a:b"}, "field 'source.stream': string should match pattern "),
        ({"kind": "kafka", "topic": "../x"}, "field 'source.topic': string should match pattern "),
        ({"kind": "redis", "stream": "s", "zz": 1}, "the request has an unknown field 'source.zz'."),
        (
            {"kind": "zz", "path": "/x"},
            "field 'source.kind': input should be one of 'redis', 'push', 'folder', 'kafka', 'nats', got 'zz'.",
        ),
        ({"kind": 5}, "field 'source.kind': input should be one of 'redis', "),
        ({"upload": "x"}, "field 'source.parts': field required"),
        ({"job": "x"}, "field 'source.stage': field required"),
        ({"path": 5}, "field 'source.path': input should be a valid string, got 5."),
        ({"path": "/a", "zz": 1}, "the request has an unknown field 'source.zz'."),
        ({"path": "/a", "format": "zz"}, "field 'source.format': input should be 'parquet', "),
        (
            {"path": "/a", "csv": {"delimiter": 5}},
            "field 'source.csv.delimiter': input should be a valid string, got 5.",
        ),
    ],
)
def test_the_fault_of_a_source_is_one_of_the_kind_that_it_is_meant_to_be(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        JobRequest.model_validate({"operator": "echo", "source": source})
    assert explain(first_fault(raised.value.errors(include_url=False)), JobRequest).message.startswith(message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "the request does not fit: expected either rows or rows_arrow."),
        ({"rows": [{"a": 1}], "sequence": 1}, "the request does not fit: expected producer and sequence, or neither."),
    ],
)
def test_the_fault_of_a_request_as_a_whole_is_said_in_the_words_of_its_validator(body: Any, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        PushRequest.model_validate(body)
    assert explain(first_fault(raised.value.errors(include_url=False)), PushRequest).message == message
