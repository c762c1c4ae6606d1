"""Which backend runs a text model, as its job asks for it: the checks around `backends.selection`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.errors import BatchmillError
from batchmill_worker.backends import openvino_backend
from batchmill_worker.backends.check import compare
from batchmill_worker.backends.selection import ConversionRequest, faster_backend, open_openvino
from batchmill_worker.models import setup_context
from batchmill_worker.runtime.failures import Failure, operator_failed
from batchmill_worker.text.request import missing_extra
from batchmill_worker.text.tokens import TokenReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchmill_worker.backends.base import Backend
    from batchmill_worker.backends.torch_backend import TorchBackend
    from batchmill_worker.text.columns import Text
    from batchmill_worker.text.request import ModelRequest
    from batchmill_worker.text.tokens import TextReader

_WORDS = "The river that flows past the old town is wide, and boats carry grain to the sea. "
_TEXTS = ("A text.", _WORDS * 3, "Été 1! 数据 🙂", _WORDS * 2, "", _WORDS, "two words", _WORDS * 3)
"""The sample: long and short texts in one batch, so that padding counts, and other scripts."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that torch has loaded, with what is needed to run it in another way.

    torch: in float32 on the CPU; elsewhere in the number format of the job.
    load: loads it once more in another number format.
    content: identifies the content of its files; called if it is converted.
    """

    torch: TorchBackend
    load: Callable[[str], TorchBackend]
    content: Callable[[], str]


def first_precision(request: ModelRequest, device: str) -> str:
    """Return the number format to load a model in: on the CPU float32, with which others are compared.

    Raises `InvalidParams` for a backend or a number format that is not possible on the device.
    """
    is_cpu = device == "cpu"
    if request.backend == "openvino" and not is_cpu:
        raise request.refusal(
            f"backend 'openvino' computes on the CPU, but the device of the worker is {device}.",
            hint="Use 'auto' or 'torch', or a pool of workers on CPUs.",
            parameter="backend",
        )
    if request.precision == "int8" and (request.backend == "torch" or not is_cpu):
        raise request.refusal(
            "precision 'int8' needs the backend 'openvino', on the CPU.",
            hint="Use 'auto' or 'bfloat16', or a pool of workers on CPUs.",
            parameter="precision",
        )
    if request.precision == "float16" and request.backend == "openvino":
        raise request.refusal(
            "backend 'openvino' does not compute in float16.", hint="Use 'bfloat16'.", parameter="precision"
        )
    return "float32" if is_cpu else request.precision


def choose_backend(request: ModelRequest, loaded: LoadedModel, reader: TextReader, sample: Text) -> Backend:
    """Return the backend that runs a model from now on.

    sample: a text, or a pair of texts, like those of the job.

    Raises `InvalidParams`, `MissingExtra` or `OperatorFailed` if the job names one that cannot run the model.
    """
    torch = loaded.torch
    if torch.device != "cpu":
        return torch
    precision = "float32" if request.precision == "auto" else request.precision
    if request.backend == "torch" and precision == "float32":
        return torch
    texts = reader.admit(_like(sample, _TEXTS))[0] or _like(sample, [""])  # not those that are too long for the job
    samples = [reader.features(some) for some in (texts, texts[:1])]
    if request.backend != "torch" and precision != "float16":
        conversion = ConversionRequest(request.model, precision, loaded.content, samples)
        backend = _openvino(request, torch, reader, conversion)
        if backend is not torch:
            return backend
    if precision == "float32":
        return torch
    other = loaded.load(precision)
    cosine = compare(torch, other, samples).worst_cosine
    other.info = other.info.model_copy(update={"worst_cosine": cosine})
    return other


def _openvino(request: ModelRequest, torch: TorchBackend, reader: TextReader, conversion: ConversionRequest) -> Backend:
    """Return OpenVINO, or torch if that is what `auto` means."""
    is_demanded = request.backend == "openvino" or conversion.precision == "int8"
    obstacle = openvino_backend.missing_library()
    if obstacle and is_demanded:
        raise missing_extra(request.operator, "openvino", obstacle)
    if not isinstance(reader, TokenReader):
        obstacle = f"{request.model!r} is no plain transformer, and only torch runs it"
        if is_demanded:
            raise request.refusal(f"{obstacle}.", hint="Use the backend 'torch' or 'auto'.", parameter="backend")
    if obstacle:
        return torch
    models = setup_context.current().converted_models
    if not is_demanded:
        return faster_backend(torch, conversion, models)
    try:
        return open_openvino(torch, conversion, models)[0]
    except (BatchmillError, MemoryError):
        raise
    except Exception as error:
        what = f"could not run {request.model!r} with OpenVINO"
        raise operator_failed(request.operator, what, Failure.of(error), hint="Use the backend 'torch'.") from error


def _like(sample: Text, texts: Sequence[str]) -> list[Text]:
    """Return the texts, or pairs of them if the sample is a pair."""
    if isinstance(sample, str):
        return list(texts)
    return list(zip(texts, [*texts[1:], texts[0]], strict=True))
