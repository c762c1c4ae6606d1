"""Batches through OpenAI's own client: made, waited for, read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai

from support.waiting import until

if TYPE_CHECKING:
    from openai.types import Batch

FINAL = ("completed", "failed", "expired", "cancelled")
Line = dict[str, Any]


def line(number: int, url: str, **body: Any) -> Line:
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}


def upload(api: openai.OpenAI, lines: list[Any]) -> str:
    content = b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines)
    return api.files.create(file=("lines.jsonl", content), purpose="batch").id


def create(api: openai.OpenAI, url: str, lines: list[Any], window: Any = "24h", **options: Any) -> Batch:
    file = upload(api, lines)
    return api.batches.create(input_file_id=file, endpoint=url, completion_window=window, **options)  # type: ignore[arg-type]  # our own endpoints too


def ended(api: openai.OpenAI, batch: Batch) -> Batch:
    found: list[Batch] = []

    def has_ended() -> bool:
        try:
            found[:] = [api.batches.retrieve(batch.id)]
        except openai.APIConnectionError:  # a coordinator is being replaced
            return False
        return found[0].status in FINAL

    until(has_ended, f"the end of {batch.id}")
    return found[0]


def run(api: openai.OpenAI, url: str, lines: list[Any], **options: Any) -> Batch:
    return ended(api, create(api, url, lines, **options))


def read(api: openai.OpenAI, file_id: str | None) -> list[Line]:
    return [json.loads(one) for one in api.files.content(file_id).iter_lines()] if file_id else []


def bodies(api: openai.OpenAI, batch: Batch) -> dict[str, Line]:
    """The bodies of the answers by `custom_id`."""
    return {one["custom_id"]: one["response"]["body"] for one in read(api, batch.output_file_id)}
