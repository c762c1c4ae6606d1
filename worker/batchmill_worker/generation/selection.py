"""Which engine runs a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from batchmill.errors import InvalidParams
from batchmill_worker.generation.engines import vllm_engine
from batchmill_worker.generation.engines.llamacpp import LlamaCppEngine
from batchmill_worker.generation.engines.lora_adapters import locate_adapters
from batchmill_worker.generation.engines.model_file import is_gguf, locate_gguf
from batchmill_worker.generation.engines.openvino_engine import GRAPH, OpenVinoEngine
from batchmill_worker.generation.engines.transformers_engine import TransformersEngine
from batchmill_worker.models.model_source import locate_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill_worker.generation.base import TextEngine
    from batchmill_worker.models.setup_context import SetupContext

EngineName = Literal["auto", "llamacpp", "openvino", "vllm", "transformers", "remote"]


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
    adapters: Mapping[str, str] = field(default_factory=dict)
    stages: int = 1


def open_engine(request: EngineRequest, context: SetupContext, device: str, *, samples: bool) -> TextEngine:
    """Set up the engine for a model.

    `auto` is `remote` with an endpoint, `llamacpp` for a GGUF file, `openvino` for a folder in its form, `vllm` on CUDA
    where it is installed, else `transformers`.

    samples: whether any row may have a temperature above 0.

    Raises `InvalidParams` if there is no such model or endpoint, if the two do not fit, or if the model does not fit
    into memory; `MissingExtra`; `OperatorFailed` for a model that cannot be loaded.
    """
    engine = _engine(request, context, device)
    _refuse_misfits(request, engine)
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
    return _open_folder(request, engine, context, device, samples=samples)


def _open_folder(
    request: EngineRequest, engine: EngineName, context: SetupContext, device: str, *, samples: bool
) -> TextEngine:
    """Set up the engine for a folder of a Hugging Face model, or a hub id."""
    source = locate_model(request.model, context.locations)
    if engine == "openvino":
        _refuse_another_form(request, source)
        return OpenVinoEngine(
            request.operator,
            source,
            context=request.context,
            places=request.places,
            threads=request.threads,
            memory=context.memory,
        )
    if engine == "vllm":
        return vllm_engine.VllmEngine(
            request.operator,
            source,
            context=request.context,
            places=request.places,
            gpus=vllm_engine.GpuGroup(context.devices, context.device_share, request.stages),
            adapters=locate_adapters(request.operator, request.adapters, context.locations),
            memory=context.memory,
        )
    return TransformersEngine(
        request.operator,
        source,
        device,
        context=request.context,
        places=request.places,
        samples=samples,
        memory=context.memory,
    )


def _refuse_misfits(request: EngineRequest, engine: EngineName) -> None:
    """Raise `InvalidParams` for parameters that the engine has no use for, or lacks."""
    if (engine == "remote") is (request.endpoint is None):
        needs = "needs" if engine == "remote" else "has no use for"
        raise InvalidParams(
            f"operator {request.operator!r}: the engine {engine!r} {needs} an 'endpoint'.",
            hint="Name one of those in the worker's settings, or leave out both.",
            operator=request.operator,
            parameter="endpoint",
        )
    if request.stages > 1 and engine != "vllm":
        raise InvalidParams(
            f"operator {request.operator!r}: the engine {engine!r} has no 'stages'.",
            hint="Leave it out, or use the engine 'vllm'.",
            operator=request.operator,
            parameter="stages",
        )


def _engine(request: EngineRequest, context: SetupContext, device: str) -> EngineName:
    """Return the engine: with an endpoint `remote`, else by the form of the model."""
    if request.engine != "auto":
        return request.engine
    if request.endpoint is not None:
        return "remote"
    if is_gguf(request.model):
        return "llamacpp"
    if _has_graph(locate_model(request.model, context.locations)):
        return "openvino"
    return "vllm" if device.startswith("cuda") and vllm_engine.is_installed() else "transformers"


def _has_graph(source: str) -> bool:
    return (Path(source) / GRAPH).is_file()


def _refuse_another_form(request: EngineRequest, source: str) -> None:
    if not _has_graph(source):
        raise InvalidParams(
            f"operator {request.operator!r}: the model {source} is not in OpenVINO's form: it has no {GRAPH}.",
            hint="Convert it by `optimum-cli export openvino`, or use the engine 'transformers' for it.",
            operator=request.operator,
            parameter="engine",
        )
