"""langchain's standard tests over a service; run by `test_openai_libraries.py` in an environment that has these.

Reads the service's address and key from the environment: SERVED_URL and SERVED_KEY.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

tests, langchain = import_module("langchain_tests.integration_tests"), import_module("langchain_openai")


class TestServedChat(tests.ChatModelIntegrationTests):  # type: ignore[name-defined,misc]  # of another environment
    """A model whose chat template has no tools."""

    chat_model_class = langchain.ChatOpenAI
    has_tool_calling = False
    has_tool_choice = False
    has_structured_output = False
    supports_json_mode = False
    supports_model_override = False

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """The parameters of the client."""
        return {
            "model": "smol",
            "base_url": os.environ["SERVED_URL"],
            "api_key": os.environ["SERVED_KEY"],
            "max_retries": 20,
            "stream_usage": True,
        }


class TestServedEmbeddings(tests.EmbeddingsIntegrationTests):  # type: ignore[name-defined,misc]  # of another environment
    """A model of embeddings."""

    embeddings_class = langchain.OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        """The parameters of the client."""
        return {
            "model": "minilm",
            "base_url": os.environ["SERVED_URL"],
            "api_key": os.environ["SERVED_KEY"],
            "check_embedding_ctx_length": False,
            "max_retries": 20,
        }
