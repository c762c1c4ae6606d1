"""The services of language models that jobs may use: a TOML file names them, so that no request has an address or key.

[openai]
url = "https://api.openai.com/v1"
key_file = "/run/secrets/openai"
max_in_flight = 64
requests_per_minute = 5000
tokens_per_minute = 2000000
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from batchmill.errors import InvalidParams, InvalidSettings, did_you_mean
from batchmill.storage.named_tables import read_named, read_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTING = "BATCHMILL_ENDPOINTS"


class NamedEndpoint(BaseModel):
    """One service with an OpenAI-compatible API. The key is read from its file when a model is set up.

    max_in_flight: requests of one worker process at a time. requests_per_minute, tokens_per_minute: of all workers
    together; None: any number. timeout_s: of one request. max_tokens_field: the name
    that the service has for the longest answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    key_file: Path | None = None
    max_in_flight: int = Field(default=32, ge=1, le=1024)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=300.0, gt=0)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    def key(self) -> str | None:
        """Read its key. Raises `InvalidSettings` if the file cannot be read."""
        if self.key_file is None:
            return None
        return read_secret(self.key_file)


_ENDPOINTS = TypeAdapter(dict[str, NamedEndpoint])


class NamedEndpoints:
    """The services of the settings. The default has none."""

    def __init__(self, endpoints: Mapping[str, NamedEndpoint] | None = None) -> None:
        self._endpoints = dict(endpoints or {})

    @classmethod
    def load(cls, path: str) -> Self:
        """Read the file at `path`; "" is none. Raises `InvalidSettings`, which names what is wrong."""
        if not path:
            return cls()
        endpoints = read_named(SETTING, path, _ENDPOINTS)
        for name, endpoint in endpoints.items():
            _check(path, name, endpoint)
        return cls(endpoints)

    def get(self, name: str) -> NamedEndpoint:
        """Return the service of that name. Raises `InvalidParams`."""
        found = self._endpoints.get(name)
        if found is None:
            none = f"The worker's operator names services in the file of {SETTING}."
            raise InvalidParams(
                f"this worker has no endpoint {name!r}.",
                hint=did_you_mean(name, self._endpoints) if self._endpoints else none,
                endpoint=name,
            )
        return found


def _check(path: str, name: str, endpoint: NamedEndpoint) -> None:
    split = urlsplit(endpoint.url)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise InvalidSettings(f"{SETTING}: {path}: {name}: expected a URL with http:// or https://.", name=SETTING)
    if split.username is not None or split.password is not None or split.query:
        raise InvalidSettings(
            f"{SETTING}: {path}: {name}: the URL has a user, a password or a query.",
            hint="Put the key into a file of its own, and name that as key_file.",
            name=SETTING,
        )
