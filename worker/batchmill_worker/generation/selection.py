"""Which engine runs a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from batchmill.errors import InvalidParams
from batchmill_worker.generation.engines.llamacpp import LlamaCppEngine
from batchmill_worker.generation.engines.model_file import is_gguf, locate_gguf
from batchmill_worker.generation.engines.transformers_engine import TransformersEngine
from batchmill_worker.models.model_source import locate_model

if TYPE_CHECKING:
    from batchmill_worker.generation.base import TextEngine
    from batchmill_worker.models.setup_context import SetupContext

EngineName = Literal["auto", "llamacpp", "transformers", "remote"]


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


def open_engine(request: EngineRequest, context: SetupContext, device: str, *, samples: bool) -> TextEngine:
    """Set up the engine for a model: with an endpoint `remote`, for a GGUF file `llamacpp`, else `transformers`.

    samples: whether any row may have a temperature above 0.

    Raises `InvalidParams` if there is no such model or endpoint, if the two do not fit, or if the model does not fit
    into memory; `MissingExtra`; `OperatorFailed` for a model that cannot be loaded.
    """
    engine = _engine(request)
    if (engine == "remote") is (request.endpoint is None):
        needs = "needs" if engine == "remote" else "has no use for"
        raise InvalidParams(
            f"operator {request.operator!r}: the engine {engine!r} {needs} an 'endpoint'.",
            hint="Name one of those in the worker's settings, or leave out both.",
            operator=request.operator,
            parameter="endpoint",
        )
    if engine == "remote" and request.endpoint is not None:
        from batchmill_worker.generation.engines.remote import RemoteEngine  # its HTTP client is only there for it

        return RemoteEngine(
            request.operator, request.model, context.endpoints.get(request.endpoint), context.shared_limits
        )
    if engine == "llamacpp":
        return LlamaCppEngine(
            request.operator,
            locate_gguf(request.model, context.locations),
            context=request.context,
            places=request.places,
            threads=request.threads,
            memory=context.memory,
        )
    return TransformersEngine(
        request.operator,
        locate_model(request.model, context.locations),
        device,
        context=request.context,
        places=request.places,
        samples=samples,
        memory=context.memory,
    )


def _engine(request: EngineRequest) -> EngineName:
    if request.engine != "auto":
        return request.engine
    if request.endpoint is not None:
        return "remote"
    return "llamacpp" if is_gguf(request.model) else "transformers"
