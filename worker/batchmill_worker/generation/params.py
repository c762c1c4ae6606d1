"""The types of parameters that `generate` and `chat` share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from batchmill.operators.named_params import COLUMN_FORMAT, TEMPLATE_FORMAT
from batchmill_worker.generation.base import OnLong as OnLongName
from batchmill_worker.generation.logprobs import MAX_LOGPROBS
from batchmill_worker.generation.selection import EngineName
from batchmill_worker.generation.tools import Tool

Model = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4096,
        description="package:NAME of an installed Python package with a GGUF file or a Hugging Face folder, the "
        "absolute path of one, a hub id, or the name of a model at the endpoint.",
    ),
]
Prompt = Annotated[
    str,
    Field(
        min_length=1,
        json_schema_extra={"format": TEMPLATE_FORMAT},
        description="The prompt, with columns in braces: Summarise: {body}",
    ),
]
MaxTokens = Annotated[int, Field(ge=1, le=1_000_000, description="The longest answer in tokens.")]
Temperature = Annotated[float, Field(ge=0, le=2, description="0: always the likeliest token; higher: more variety.")]
TopP = Annotated[float, Field(gt=0, le=1, description="Only the likeliest tokens with this probability in sum.")]
Seed = Annotated[
    int | None,
    Field(
        ge=0,
        lt=1 << 63,
        description="With a row's path it gives the seed of each row, whatever the batch; by default 0 where the "
        "engine has seeds.",
    ),
]
Stop = Annotated[
    list[Annotated[str, Field(min_length=1)]] | None,
    Field(max_length=4, description="Texts that end an answer; they are not part of it."),
]
Schema = Annotated[
    dict[str, Any] | None, Field(description="A JSON Schema: answers are JSON that fits, or their rows fail.")
]
_WHEN_TOO_LONG = (
    "When a prompt is too long: error fails the row, cut_… cuts the longest text that a column gave, at its beginning, "
    "end or middle, split answers that text in parts and joins the answers"
)
OnLong = Annotated[
    Literal["error", "cut_left", "cut_right", "cut_middle", "split"], Field(description=f"{_WHEN_TOO_LONG}.")
]
OnLongChat = Annotated[
    OnLongName,
    Field(description=f"{_WHEN_TOO_LONG}; drop_turns leaves out the oldest turns of a conversation in 'messages'."),
]
Logprobs = Annotated[
    int | None,
    Field(ge=0, le=MAX_LOGPROBS, description="Report the likelihood of each token, and of that many alternatives."),
]
Options = Annotated[
    str | None,
    Field(
        min_length=1,
        json_schema_extra={"format": COLUMN_FORMAT},
        description="The input column with a row's own max_tokens, temperature, top_p, seed, stop, schema and "
        "adapter, in chat tools and tool_choice, too: an object or JSON text of one.",
    ),
]
ToolList = Annotated[
    list[Tool] | None,
    Field(
        min_length=1,
        max_length=128,
        description="Functions that the model may call, in the form of OpenAI's API; only where the engine and the "
        "model's chat template have tools.",
    ),
]
ToolChoice = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=64,
        description="Whether the model calls a function: auto, required, none, or the name of the one that it calls; "
        "by default auto.",
    ),
]
Engine = Annotated[
    EngineName,
    Field(
        description="What runs the model; auto: remote if there is an endpoint, llamacpp for a GGUF file, openvino for "
        "a folder with openvino_model.xml, else transformers."
    ),
]
Endpoint = Annotated[
    str | None,
    Field(min_length=1, description="The name of an OpenAI-compatible service in the worker's settings."),
]
Context = Annotated[
    int | None,
    Field(ge=64, description="Tokens of a prompt with its answer; by default the model's own, at most 4096."),
]
Places = Annotated[int, Field(ge=2, le=256, description="Rows that an engine of the worker answers at a time.")]
Threads = Annotated[
    int | None,
    Field(
        ge=1,
        le=1024,
        description="Threads of llamacpp or openvino; by default one for each core the worker is pinned to.",
    ),
]
Adapters = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(min_length=1, max_length=4096)]]
    | None,
    Field(
        min_length=1,
        max_length=64,
        description="LoRA adapters that rows may name: the absolute path of each one's folder, by a name for it; only "
        "with vllm.",
    ),
]
Adapter = Annotated[
    str | None,
    Field(min_length=1, max_length=64, description="Which of the adapters rows use that name none in their options."),
]
Stages = Annotated[
    int,
    Field(ge=1, le=64, description="Into how many pipeline stages vllm divides the model over the worker's GPUs."),
]
