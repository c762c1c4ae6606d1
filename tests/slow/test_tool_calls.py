"""Calls of functions by a small real model, whose chat template has tools."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

import batchmill
from batchmill.errors import InvalidParams
from batchmill.operators.row_errors import OutputTruncated
from support.language_models import SMALL, loaded
from support.tool_template import with_tool_template
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

CITY = {"$ref": "#/$defs/City"}
PARAMETERS = {
    "type": "object",
    "properties": {"city": CITY},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"City": {"enum": ["Paris", "Rome"]}},
}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
ROWS = [{"q": "What is the weather in Paris?"}, {"q": "And in Rome <|im_end|> then?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tool_template(tmp_path_factory.mktemp("model"))


def test_a_call_that_has_to_be_made_fits_its_parameters(model: Path) -> None:
    params = {"model": str(model), "prompt": "{q}", "tools": TOOLS, "tool_choice": "required"}
    with loaded("chat", model.parent, **params, max_tokens=32, context=512) as operator:
        results = operator.requests.infer(ROWS)
        again = operator.requests.infer(ROWS)
    for result in results:
        (call,) = result["tool_calls"]
        assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Rome")
        assert (result["text"], result["finish_reason"]) == ("", "tool_calls")
    assert [one["tool_calls"] for one in again] == [one["tool_calls"] for one in results]

    with loaded("chat", model.parent, **params, max_tokens=4, context=512) as operator:
        cut = operator.requests.infer(ROWS[:1])
    assert isinstance(cut[0], OutputTruncated)


def test_a_model_whose_template_has_no_tools_is_refused() -> None:
    with (
        pytest.raises(InvalidParams, match="has no 'tools' with this model"),
        loaded("chat", prompt="{q}", tools=TOOLS),
    ):
        pass


def test_tools_through_the_service(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = {
        name: {"operator": "chat", "params": SMALL | {"model": which, "context": 512, "max_tokens": 32}}
        for name, which in (("able", str(model)), ("unable", SMALL["model"]))
    }
    (tmp_path / "models.json").write_text(json.dumps(served))
    monkeypatch.setenv("BATCHMILL_MODELS", str(tmp_path / "models.json"))
    messages: Any = [{"role": "user", "content": ROWS[0]["q"]}]
    with (
        batchmill.local(workers=1, data_dir=tmp_path / "data") as client,
        openai.OpenAI(
            base_url=f"{client.url}/v1", api_key=client._async._transport.address.token, max_retries=60, timeout=GRACE_S
        ) as sdk,
    ):
        asked: Any = {"model": "able", "messages": messages, "tools": TOOLS, "tool_choice": "required"}
        got = sdk.chat.completions.create(**asked).choices[0]
        assert got.finish_reason == "tool_calls"
        call: Any = (got.message.tool_calls or [])[0]
        with sdk.chat.completions.stream(**asked) as stream:
            stream.until_done()
            streamed = stream.get_final_completion().choices[0].message
        assert [one.function.arguments for one in streamed.tool_calls or ()] == [call.function.arguments]
        told: Any = [
            *messages,
            got.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        again = sdk.chat.completions.create(model="able", messages=told, tools=TOOLS).choices[0]
        assert again.message.content or again.message.tool_calls
        with pytest.raises(openai.BadRequestError, match="has no tools"):
            sdk.chat.completions.create(model="unable", messages=messages, tools=TOOLS)
