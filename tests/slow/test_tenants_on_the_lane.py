"""Tenants that share a language model: answers that take long do not keep another tenant waiting."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import openai
import pytest

from support.cluster import Cluster
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

STREAMS = 10  # more than the engine has places


def chat(sdk: openai.OpenAI, text: str, *, streams: bool = False) -> Any:
    return sdk.chat.completions.create(model="speaker", messages=[{"role": "user", "content": text}], stream=streams)


def words(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_streams_of_one_tenant_do_not_keep_another_one_waiting(tmp_path: Path) -> None:
    models, gate = tmp_path / "models.json", tmp_path / "gate"
    models.write_text(json.dumps({"speaker": {"operator": "speaker", "kind": "chat", "preload": True}}))
    with Cluster(tmp_path, "lane_operators", TOKENS="greedy:one,other:two", MODELS=models) as cluster:
        cluster.start()
        url = f"{cluster.url('a')}/v1"
        with ExitStack() as opened, ThreadPoolExecutor(STREAMS) as threads:
            opened.callback(gate.touch)
            greedy, other = (
                opened.enter_context(openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=GRACE_S))
                for key in ("one", "two")
            )
            until(lambda: (other.models.retrieve("speaker").model_extra or {})["state"] == "ready", "the model")
            streams = [threads.submit(chat, greedy, f"one {gate} two", streams=True) for _ in range(STREAMS)]
            until(lambda: sum(one.done() for one in streams) == 3, "the streams that may begin")
            for _ in range(3):
                assert chat(other, "at once").choices[0].message.content == "at once"
            assert sum(one.done() for one in streams) == 3
            gate.touch()
            assert {words(one.result(GRACE_S)) for one in streams} == {f"one {gate} two"}
