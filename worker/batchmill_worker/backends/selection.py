"""Which backend runs a model on this machine: OpenVINO if it is installed, exact enough and faster, else torch.

1. The model is loaded by torch, which is the reference, in float32 if another backend may run it.
2. It is converted, or its converted form is found on the disk (`converted_models`).
3. Both compute a few rows. The comparison is stored beside the converted form, for each kind of processor and number of
   threads, so that later processes decide without it.
4. `auto` takes OpenVINO if its outputs are close enough and it is faster. Whatever else happens, it takes torch and
   logs the reason. A backend that the job names is taken if it runs at all.
"""

from __future__ import annotations

import logging
import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from batchmill_worker.backends import openvino_backend, openvino_library
from batchmill_worker.backends.check import Check, compare
from batchmill_worker.backends.converted_models import ConvertedModels, key_of
from batchmill_worker.backends.openvino_backend import OpenVinoBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchmill_worker.backends.base import Backend
    from batchmill_worker.backends.torch_backend import TorchBackend

log = logging.getLogger(__name__)

MIN_COSINE = {"float32": 0.9999, "bfloat16": 0.99}
"""Of any row of the sample, for `auto`."""
MIN_GAIN = 1.05
"""How many times as fast as torch, for `auto`: less is within the noise of the measurement."""


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What to convert, and how.

    content: identifies the content of the model's files.
    samples: batches of features, of different shapes; the first is traced.
    """

    model: str  # as users name it
    precision: str
    content: Callable[[], str]
    samples: Sequence[Mapping[str, Any]]

    @property
    def key(self) -> str:
        """Return the key of the converted form. Number formats other than int8 are chosen when it is compiled."""
        features = {
            name: "tensor" if isinstance(value, torch.Tensor) else repr(value)
            for name, value in self.samples[0].items()
        }
        weights = "int8" if self.precision == "int8" else "exact"
        described = [f"{name}={value}" for name, value in features.items()]
        return key_of([self.content(), weights, *described, *openvino_backend.versions()])


def faster_backend(source: TorchBackend, request: ConversionRequest, models: ConvertedModels) -> Backend:
    """Return OpenVINO if `auto` means that, else torch, and log which and why.

    source: the model in float32 on the CPU.
    """
    if not models.are_stored:
        log.info("%s runs on torch: converted models are not stored here", request.model)
        return source
    if not openvino_library.computes_in(request.precision):
        log.info("%s runs on torch: the processor does not compute in %s", request.model, request.precision)
        return source
    try:
        backend, check = open_openvino(source, request, models)
    except Exception as error:  # noqa: BLE001  # whatever it is, torch can run the model
        log.warning("%s runs on torch: OpenVINO failed (%s: %s)", request.model, type(error).__name__, error)
        return source
    reason = objection(check, request.precision)
    measured = f"{check.gain:.2g} times as fast as torch, worst cosine {check.worst_cosine:.7f}"
    if not reason:
        log.info("%s runs on OpenVINO in %s: %s", request.model, request.precision, measured)
        return backend
    level = logging.WARNING if check.worst_cosine < MIN_COSINE[request.precision] else logging.INFO
    log.log(level, "%s runs on torch: OpenVINO %s (%s)", request.model, reason, measured)
    return source


def objection(check: Check, precision: str) -> str:
    """Return why `auto` does not take a backend with this check; "": it does."""
    if check.worst_cosine < MIN_COSINE[precision]:
        return f"differs from torch by more than {precision} explains"
    if check.gain < MIN_GAIN:
        return "is not faster"
    return ""


def open_openvino(
    source: TorchBackend, request: ConversionRequest, models: ConvertedModels
) -> tuple[OpenVinoBackend, Check]:
    """Compile the converted form of a model, which is made if need be, and compare it with torch.

    Raises whatever the libraries raise for a model that they cannot convert or compile.
    """

    key = request.key

    def make(folder: Path) -> None:
        log.info("converting %s for OpenVINO", request.model)
        openvino_backend.convert(source, request.samples[0], request.precision, folder)

    if models.has(key):
        try:
            with models.entry(key, make) as folder:
                return _opened(source, request, folder)
        except Exception as error:  # noqa: BLE001  # made again, it fails for its own reason if that was not it
            log.warning("the converted form of %s is made again, it cannot be used: %s", request.model, error)
            models.drop(key)
    with models.entry(key, make) as folder:
        return _opened(source, request, folder)


def _opened(source: TorchBackend, request: ConversionRequest, folder: Path) -> tuple[OpenVinoBackend, Check]:
    backend = OpenVinoBackend(folder, request.precision, torch.get_num_threads())
    file = folder / f"check-{key_of([processor(), str(torch.get_num_threads()), request.precision])}.json"
    try:
        check = Check.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        check = compare(source, backend, request.samples)
        with suppress(OSError):  # compared again at the next start
            file.write_text(check.model_dump_json())
    backend.info = backend.info.model_copy(update={"worst_cosine": check.worst_cosine})
    return backend, check


@cache
def processor() -> str:
    """Name the kind of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    return " ".join([platform.machine(), *(facts.get(name, "") for name in ("model name", "model", "flags"))])
