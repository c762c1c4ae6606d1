"""Asks a service by LangChain and LlamaIndex, in an environment that has these: `ask_by_libraries.py URL TOKEN`.

Prints what they got as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

QUESTION = "Name a colour."
TEXTS = ["one", "two and a bit"]


def main() -> None:
    url, key = sys.argv[1:]
    langchain, chat = import_module("langchain_openai"), {"base_url": url, "api_key": key, "model": "smol"}
    llama, llama_embedding = (
        import_module("llama_index.llms.openai_like"),
        import_module("llama_index.embeddings.openai_like"),
    )
    model = langchain.ChatOpenAI(**chat, max_retries=20)
    vectors = langchain.OpenAIEmbeddings(
        base_url=url, api_key=key, model="minilm", check_embedding_ctx_length=False, max_retries=20
    )
    answer = model.invoke(QUESTION)
    other = llama.OpenAILike(
        model="smol", api_base=url, api_key=key, is_chat_model=True, max_retries=20, temperature=0.0
    )
    others = llama_embedding.OpenAILikeEmbedding(model_name="minilm", api_base=url, api_key=key, max_retries=20)
    found = {
        "langchain": answer.content,
        "langchain_tokens": answer.usage_metadata["output_tokens"],
        "langchain_stream": "".join(chunk.content for chunk in model.stream(QUESTION)),
        "langchain_vectors": vectors.embed_documents(TEXTS),
        "llama": str(other.complete(QUESTION)),
        "llama_stream": "".join(chunk.delta or "" for chunk in other.stream_complete(QUESTION)),
        "llama_vectors": others.get_text_embedding_batch(TEXTS),
    }
    print(json.dumps(found))  # noqa: T201  # the test reads it


if __name__ == "__main__":
    main()
