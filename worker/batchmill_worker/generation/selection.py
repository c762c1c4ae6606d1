"""Which engine runs a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from batchmill.errors import InvalidParams
from batchmill_worker.generation.llamacpp import LlamaCppEngine
from batchmill_worker.generation.model_file import locate_gguf

if TYPE_CHECKING:
    from batchmill_worker.generation.base import TextEngine
    from batchmill_worker.models.setup_context import SetupContext

EngineName = Literal["auto", "llamacpp", "remote"]


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Which model an operator asks for, and how it is to run. The fields are parameters of the operators."""

    operator: str
    model: str
    engine: EngineName = "auto"
    endpoint: str | None = None
    context: int | None = None
    places: int = 8
    threads: int | None = None


def open_engine(request: EngineRequest, context: SetupContext) -> TextEngine:
    """Set up the engine for a model: with an endpoint `remote`, else `llamacpp`.

    Raises `InvalidParams` if there is no such model or endpoint, or if the two do not fit; `MissingExtra`;
    `OperatorFailed` for a model that cannot be loaded.
    """
    engine = request.engine
    if engine == "auto":
        engine = "llamacpp" if request.endpoint is None else "remote"
    if (engine == "remote") is (request.endpoint is None):
        needs = "needs" if engine == "remote" else "has no use for"
        raise InvalidParams(
            f"operator {request.operator!r}: the engine {engine!r} {needs} an 'endpoint'.",
            hint="Name one of those in the worker's settings, or leave out both.",
            operator=request.operator,
            parameter="endpoint",
        )
    if engine == "remote" and request.endpoint is not None:
        from batchmill_worker.generation.remote import RemoteEngine  # with an HTTP client, which workers lack otherwise

        return RemoteEngine(request.operator, request.model, context.endpoints.get(request.endpoint))
    path = locate_gguf(request.model, context.locations)
    return LlamaCppEngine(
        request.operator, path, context=request.context, places=request.places, threads=request.threads
    )
