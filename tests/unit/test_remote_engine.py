"""Rows that a service answers over HTTP: a real server, which fails as real services do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, InvalidSettings, QuotaUsedUp
from batchmill.storage.named_endpoints import NamedEndpoint, NamedEndpoints
from batchmill_worker.generation.engines import remote
from support.language_models import Shards, loaded
from support.model_service import chat_reply, error_reply, model_service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchmill_worker.engine.shard_result import ShardResult
    from support.model_service import ModelService, Reply

KEY = "sk-a-secret-of-the-service"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def rows(count: int) -> pa.Table:
    return pa.table({"id": list(range(count)), "body": [f"row {number}" for number in range(count)]})


def content(body: dict[str, Any]) -> str:
    text: str = body["messages"][-1]["content"]
    return text


def ask(
    folder: Path, answer: Callable[[dict[str, Any], int], Reply], table: pa.Table, **params: Any
) -> tuple[ShardResult, ModelService]:
    """Run a shard against a service that answers like this."""
    (folder / "key").write_text(f"{KEY}\n")
    with model_service(answer) as service:
        endpoints = NamedEndpoints({"test": NamedEndpoint(url=service.url, key_file=folder / "key", max_in_flight=16)})
        given = {"model": "m", "endpoint": "test", "prompt": "Say: {body}"} | params
        with loaded("chat", endpoints=endpoints, **given) as operator:
            return Shards(operator).run(table), service


def test_every_row_is_asked_once_and_its_answer_is_in_its_place(tmp_path: Path) -> None:
    result, service = ask(
        tmp_path, lambda body, _: chat_reply(content(body).upper()), rows(40), system="Be brief", stop=["."]
    )

    assert result.table["text"].to_pylist() == [f"SAY: ROW {number}" for number in range(40)]
    first = result.table.slice(0, 1).to_pylist()[0]
    assert (first["prompt_tokens"], first["cached_tokens"], first["engine"]) == (7, 2, "remote")
    assert first["model_digest"] == "remote:m"
    assert len(service.requests) == 40
    assert {path for path, _, _ in service.requests} == {"/v1/chat/completions"}
    assert {key for _, _, key in service.requests} == {f"Bearer {KEY}"}
    assert service.requests[0][1]["stop"] == ["."]
    assert len({body["seed"] for _, body, _ in service.requests}) == 40


def test_likelihoods_are_asked_for_and_become_a_column(tmp_path: Path) -> None:
    token = {"token": "yes", "logprob": -0.25, "top_logprobs": [{"token": "yes", "logprob": -0.25}]}

    def answer(*_: Any) -> Reply:
        status, body, headers = chat_reply("yes")
        body["choices"][0]["logprobs"] = {"content": [token]}
        return status, body, headers

    result, service = ask(tmp_path, answer, rows(1), logprobs=1)

    top = [{"token": "yes", "logprob": -0.25}]
    assert result.table["logprobs"].to_pylist() == [[{"token": "yes", "logprob": -0.25, "top": top}]]
    assert (service.requests[0][1]["logprobs"], service.requests[0][1]["top_logprobs"]) == (True, 1)


def test_tools_are_those_of_the_service(tmp_path: Path) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]

    def answer(*_: Any) -> Reply:
        status, body, headers = chat_reply("", "tool_calls")
        body["choices"][0]["message"] |= {"content": None, "tool_calls": [call]}
        return status, body, headers

    result, service = ask(tmp_path, answer, rows(1), tools=tools, tool_choice="now")

    assert result.table.select(["text", "finish_reason", "tool_calls"]).to_pylist() == [
        {"text": "", "finish_reason": "tool_calls", "tool_calls": [call]}
    ]
    asked = service.requests[0][1]
    assert (asked["tools"], asked["tool_choice"]) == (tools, {"type": "function", "function": {"name": "now"}})


def test_an_overloaded_service_is_left_alone_and_asked_again(tmp_path: Path) -> None:
    busy = [error_reply(429, "rate_limit_exceeded", retry_after_ms="50"), error_reply(503, "overloaded"), (200, [], {})]

    def answer(body: dict[str, Any], number: int) -> Reply:
        return busy[number - 1] if number <= 2 else chat_reply(content(body))

    result, service = ask(tmp_path, answer, rows(6))

    assert result.table["text"].to_pylist() == [f"Say: row {number}" for number in range(6)]
    assert len(service.requests) == 8


def test_a_row_that_is_never_answered_is_rate_limited_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_TRIES", 2)

    def answer(body: dict[str, Any], _: int) -> Reply:
        return error_reply(500, "server_error") if "row 1" in content(body) else chat_reply("yes")

    result, _ = ask(tmp_path, answer, rows(3))

    (dead,) = result.dead
    assert (dead.index, dead.failure.error_type, dead.retryable) == (1, "RateLimited", True)
    assert "none of 2 requests; at last: 500: no" in dead.failure.message


def test_each_error_of_a_row_has_its_type_and_the_others_are_answered(tmp_path: Path) -> None:
    replies = {
        "Say: row 0": error_reply(400, "context_length_exceeded", "too many tokens"),
        "Say: row 1": error_reply(400, "content_policy_violation"),
        "Say: row 2": chat_reply("", refusal="I will not."),
        "Say: row 3": chat_reply("", "content_filter"),
        "Say: row 4": error_reply(400, "invalid_request_error", f"the key {KEY} is fine"),
        "Say: row 5": chat_reply('{"n": 1}'),
        "Say: row 6": chat_reply('{"n": "x"}'),
        "Say: row 7": chat_reply('{"n": ', "length"),
    }
    result, service = ask(tmp_path, lambda body, _: replies[content(body)], rows(8), schema=SCHEMA)

    kinds = ["ContextTooLong", "Refused", "Refused", "Refused", "RowError", "InvalidOutput", "OutputTruncated"]
    assert [row.failure.error_type for row in result.dead] == kinds
    assert "the key *** is fine" in result.dead[4].failure.message
    assert result.table["text"].to_pylist() == ['{"n": 1}']
    assert len(service.requests) == 8
    form = service.requests[0][1]["response_format"]
    assert form["json_schema"]["schema"] == SCHEMA


def test_a_quota_that_is_used_up_is_a_failure_of_its_own_kind(tmp_path: Path) -> None:
    with pytest.raises(QuotaUsedUp, match="quota at the endpoint is used up") as failed:
        ask(tmp_path, lambda *_: error_reply(429, "insufficient_quota", retry_after="30"), rows(30))

    assert failed.value.details["error_type"] == "InsufficientQuota"


def test_a_refused_key_ends_the_job_and_is_in_no_message(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="does not accept the key or the model 'm': 401") as refused:
        ask(tmp_path, lambda *_: error_reply(401, "invalid_api_key", f"wrong key {KEY}"), rows(3))

    assert KEY not in str(refused.value)


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with model_service(lambda *_: chat_reply("stolen")) as other:
        result, _ = ask(tmp_path, lambda *_: (307, {}, {"Location": f"{other.url}/chat/completions"}), rows(1))

        assert result.dead[0].failure.message.startswith("the endpoint answered 307")
        assert other.requests == []


def test_generate_asks_for_a_completion() -> None:
    with model_service(lambda body, _: (200, {"choices": [{"text": body["prompt"] + "!"}]}, {})) as service:
        endpoints = NamedEndpoints({"test": NamedEndpoint(url=service.url)})
        with loaded("generate", endpoints=endpoints, model="m", endpoint="test", prompt="{body}") as operator:
            result = Shards(operator).run(rows(2))

    assert result.table["text"].to_pylist() == ["row 0!", "row 1!"]
    assert service.requests[0][0] == "/v1/completions"
    assert service.requests[0][2] == ""


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"endpoint": "tset"}, "no endpoint 'tset'"),
        ({"on_long": "cut_left"}, "only the endpoint knows its tokens"),
        ({"engine": "llamacpp"}, "'llamacpp' has no use for an 'endpoint'"),
        ({"engine": "remote", "endpoint": None}, "'remote' needs an 'endpoint'"),
        ({"messages": "chat"}, "either 'prompt'"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParams, match=message):
        ask(tmp_path, lambda *_: chat_reply("x"), rows(1), **params)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[a]\nurl = "ftp://x"', "a: expected a URL with http"),
        ('[a]\nurl = "https://me:secret@x/v1"', "a: the URL has a user"),
        ('[a]\nurl = "https://x"\nkey = "sk-1"', "a.key: Extra inputs"),
        ("[a", "cannot be read"),
    ],
)
def test_a_wrong_file_of_endpoints_is_refused_without_its_secrets(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "endpoints.toml").write_text(text)

    with pytest.raises(InvalidSettings, match=message) as refused:
        NamedEndpoints.load(str(tmp_path / "endpoints.toml"))

    assert "secret" not in str(refused.value)
    assert "sk-1" not in str(refused.value)
