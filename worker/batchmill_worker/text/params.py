"""The types of parameters that several text operators share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from batchmill.storage.hub_models import MODEL_FORMAT

Model = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4096,
        json_schema_extra={"format": MODEL_FORMAT},
        description="A Hugging Face hub id, an absolute folder, or package:NAME for weights inside an installed "
        "Python package.",
    ),
]
Column = Annotated[str, Field(min_length=1, description="The input column with the text.")]
Query = Annotated[str, Field(min_length=1, description="The input column with the query.")]
Prompt = Annotated[
    str | None, Field(description="Put before every text; by default the model's own prompt, if it has one.")
]
PromptName = Annotated[
    str | None, Field(description="The name of one of the model's own prompts, instead of a prompt.")
]
MaxTokens = Annotated[
    int | None, Field(ge=1, description="The longest text in tokens, special ones included; by default the model's.")
]
Truncate = Annotated[
    bool, Field(description="Cut a text that is too long at its end; false makes it an error of its row instead.")
]
Backend = Annotated[
    Literal["auto", "torch", "openvino"],
    Field(
        description="The library that runs the model; auto: on CPUs the fastest that is installed and gives the same "
        "results as torch, else torch."
    ),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "float16", "int8"],
    Field(
        description="What the model computes in; auto: half precision on GPUs that have it, else float32. int8: on "
        "CPUs with OpenVINO."
    ),
]
