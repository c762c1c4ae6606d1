"""OpenVINO, on the CPU: a model is converted from torch once, and compiled for the processor in each process.

The conversion traces the complete pipeline of a sentence-transformers model, pooling and heads included, with numbers
of rows and tokens left open. It needs nothing but the model in memory: no network and no other library.

Rejected: `openvino.convert_model`, which sends usage statistics, and the exporters of transformers and optimum, which
convert the transformer alone and pin versions of the libraries.
"""

from __future__ import annotations

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from batchmill.operators.contract import BackendInfo
from batchmill_worker.backends.openvino_library import library

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from batchmill_worker.backends.torch_backend import TorchBackend

_FORM = 1
"""Change it when what `convert` writes changes."""
_GRAPH = "model.xml"
_WEIGHTS = "model.bin"
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""Of what is computed outside of matrix products with weights in int8."""
_CHATTY = ("transformers", "sentence_transformers", "openvino")
"""Libraries that log, during a conversion, about attributes that the tracer only looks at."""


def missing_library() -> str:
    """Return why OpenVINO cannot be imported here; "": it can."""
    try:
        version("openvino")
    except PackageNotFoundError:
        return "openvino is not installed"
    return ""


def versions() -> list[str]:
    """List what the result of a conversion depends on besides the model."""
    libraries = ("openvino", "torch", "transformers", "sentence-transformers")
    return [f"form {_FORM}", *(f"{library} {version(library)}" for library in libraries)]


class _Pipeline(torch.nn.Module):
    """A model whose inputs are tensors only, as the tracer needs them."""

    def __init__(self, model: Any, output: str, names: list[str], constants: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.output = output
        self.names = names
        self.constants = constants

    def forward(self, *tensors: Tensor) -> Tensor:
        outputs: Tensor = self.model({**dict(zip(self.names, tensors, strict=True)), **self.constants})[self.output]
        return outputs


def convert(source: TorchBackend, features: Mapping[str, Any], precision: str, folder: Path) -> None:
    """Write the converted form of a float32 model on the CPU to a folder.

    features: of a batch of several rows and tokens; whatever in it is no tensor becomes part of the form.
    precision: `int8`: weights are rounded to 8 bits, with a scale for each row of a matrix; otherwise they stay exact.
    """
    openvino = library()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    names = [name for name, value in features.items() if isinstance(value, torch.Tensor)]
    constants = {name: value for name, value in features.items() if name not in names}
    pipeline = _Pipeline(source.model, source.output, names, constants).eval()
    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.no_grad(), _quietly():
        example = tuple(features[name] for name in names)
        decoder = TorchScriptPythonDecoder(pipeline, example_input=example, trace_kwargs={"check_trace": False})
        model = frontend.convert(frontend.load(decoder))
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_element_type(openvino.Type.i64)
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    model.validate_nodes_and_infer_types()
    if precision == "int8":
        _round_weights(model)
    openvino.save_model(model, str(folder / _GRAPH), compress_to_fp16=False)


def _round_weights(model: Any) -> None:
    """Replace the constant matrices of products by int8 numbers times a scale for each output, in place.

    The library keeps this pattern compressed. Rejected: nncf, which does the same with more options, and slower.
    """
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant" or len(constant.shape) != 2:
            continue
        weights = constant.data
        inner = 1 if node.get_attributes()["transpose_b"] else 0
        scales = np.maximum(np.abs(weights).max(axis=inner, keepdims=True), 1e-30) / 127
        rounded = ops.convert(ops.constant(np.rint(weights / scales).astype(np.int8)), "f32")
        exact = ops.multiply(rounded, ops.constant(scales.astype(np.float32)))
        node.input(1).replace_source_output(exact.output(0))


def _compile(graph: Path, options: Mapping[str, Any]) -> Any:
    """Compile a model for the processor, in a thread that ends with it.

    The library gives the thread that compiles a stack for signals, and unmaps it when the model is gone, whichever
    thread drops that: the next signal for the first one would end the process.
    """
    with ThreadPoolExecutor(1) as compiling:
        return compiling.submit(library().Core().compile_model, str(graph), "CPU", options).result()


class OpenVinoBackend:
    """A converted model, compiled for the processor. Results are copied out of the library's buffers.

    threads: to compute with. One inference stream, because one batch at a time uses the device.
    """

    def __init__(self, folder: Path, precision: str, threads: int) -> None:
        self.info = BackendInfo(name="openvino", precision=precision)
        self._nbytes = (folder / _WEIGHTS).stat().st_size
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # the supervisor pins the process
        }
        compiled = _compile(folder / _GRAPH, options)
        self._names = [port.get_any_name() for port in compiled.inputs]
        self._request = compiled.create_infer_request()

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Implement `Backend.forward`."""
        inputs = {name: features[name].numpy() for name in self._names}
        outputs = self._request.infer(inputs, share_inputs=True, share_outputs=False)
        return torch.from_numpy(outputs[0])

    def memory_bytes(self) -> int:
        """Return the bytes of the weights as they are stored."""
        return self._nbytes


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide the warnings of the tracer: it reports each shape that the model's code looks at."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
