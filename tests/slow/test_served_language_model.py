"""A small real language model behind the routes of OpenAI's API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

import batchmill
from support.language_models import SMALL
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = {
    "smol": {"operator": "chat", "params": SMALL | {"max_tokens": 12}},
    "text": {"operator": "generate", "params": SMALL | {"max_tokens": 8}},
}
QUESTION = "Name a colour."
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[batchmill.Client]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "models.json").write_text(json.dumps(MODELS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHMILL_MODELS", str(folder / "models.json"))
        with batchmill.local(workers=1, data_dir=folder / "data") as made:
            yield made


@pytest.fixture(scope="module")
def sdk(client: batchmill.Client) -> Iterator[openai.OpenAI]:
    token = client._async._transport.address.token
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key=token, max_retries=60, timeout=GRACE_S) as made:
        yield made


def test_a_chat_has_the_answer_of_a_job_in_one_piece_and_as_a_stream(
    sdk: openai.OpenAI, client: batchmill.Client
) -> None:
    params = SMALL | {"max_tokens": 12, "prompt": "{question}"}
    job = client.submit("chat", rows=[{"question": QUESTION}], params=params)
    (expected,) = job.wait(timeout=GRACE_S).results()

    got = sdk.chat.completions.create(model="smol", messages=MESSAGES)
    with sdk.chat.completions.create(model="smol", messages=MESSAGES, stream=True) as stream:
        chunks = [chunk.choices[0] for chunk in stream]

    assert got.choices[0].message.content == expected["text"]
    assert "".join(one.delta.content or "" for one in chunks) == expected["text"]
    assert len([one for one in chunks if one.delta.content]) > 3
    assert chunks[-1].finish_reason == got.choices[0].finish_reason == expected["finish_reason"]
    assert got.usage is not None
    assert got.usage.prompt_tokens == expected["prompt_tokens"]
    assert got.usage.completion_tokens == expected["generated_tokens"]


def test_options_of_a_request_are_its_own(sdk: openai.OpenAI) -> None:
    form: Any = {
        "type": "json_schema",
        "json_schema": {
            "name": "colour",
            "schema": {
                "type": "object",
                "properties": {"colour": {"enum": ["red", "green"]}},
                "required": ["colour"],
                "additionalProperties": False,
            },
        },
    }
    structured = sdk.chat.completions.create(model="smol", messages=MESSAGES, response_format=form, max_tokens=30)
    assert json.loads(structured.choices[0].message.content or "")["colour"] in ("red", "green")

    with pytest.raises(openai.BadRequestError, match="raise 'max_tokens'") as cut:
        sdk.chat.completions.create(model="smol", messages=MESSAGES, response_format=form, max_tokens=2)
    assert cut.value.code == "output_truncated"

    def sampled(seed: int | None) -> list[str | None]:
        found = sdk.chat.completions.create(model="smol", messages=MESSAGES, temperature=1.5, seed=seed, n=2)
        return [one.message.content for one in found.choices]

    assert len({*sampled(7), *sampled(8)}) > 1
    short = sdk.chat.completions.create(model="smol", messages=MESSAGES, max_completion_tokens=2)
    assert (short.choices[0].finish_reason, short.usage and short.usage.completion_tokens) == ("length", 2)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="smol", messages=[{"role": "user", "content": "far too long " * 300}])
    assert caught.value.code == "context_length_exceeded"


def test_texts_are_continued(sdk: openai.OpenAI) -> None:
    got = sdk.completions.create(model="text", prompt=["1 2 3 4", "a b c d"], stop=[" 7"])
    assert [one.index for one in got.choices] == [0, 1]
    assert got.choices[0].text.startswith(" 5 6")
    assert "7" not in got.choices[0].text
    with sdk.completions.create(model="text", prompt="1 2 3 4", max_tokens=4, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream).startswith(" 5")
    tokens = [504, 3575, 282, 4649, 314]
    ours, theirs = (
        sdk.completions.create(model="text", prompt=prompt, max_tokens=4)
        for prompt in ([tokens, tokens], "The capital of France is")
    )
    assert [one.text for one in ours.choices] == [theirs.choices[0].text] * 2
    assert theirs.usage is not None
    assert theirs.usage.prompt_tokens == len(tokens)
    with pytest.raises(openai.BadRequestError, match="token 60000"):
        sdk.completions.create(model="text", prompt=[60000])
    with pytest.raises(openai.BadRequestError, match="/v1/completions"):
        sdk.chat.completions.create(model="text", messages=MESSAGES)
