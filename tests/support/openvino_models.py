"""A small language model in OpenVINO's form, as `optimum-cli export openvino` writes one: the model of `hf_models`.

The model is traced with its cache as inputs and outputs, which then become states of the graph.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from batchmill_worker.backends.openvino_library import library
from support.hf_models import make_language_model

if TYPE_CHECKING:
    from pathlib import Path


def make_openvino_model(folder: Path) -> Path:
    """Write a language model, its tokenizer and its form for OpenVINO to a folder."""
    export(make_language_model(folder))
    return folder


def export(folder: Path) -> None:
    """Write OpenVINO's form of the Hugging Face model in a folder beside it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    openvino = library()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    graph = _traced(model)
    _keep_cache_as_state(graph, model.config.num_hidden_layers)
    openvino.save_model(graph, str(folder / "openvino_model.xml"), compress_to_fp16=False)
    from openvino_tokenizers import convert_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, part in zip(
        ("tokenizer", "detokenizer"), convert_tokenizer(tokenizer, with_detokenizer=True), strict=True
    ):
        openvino.save_model(part, str(folder / f"openvino_{name}.xml"))


def _traced(model: Any) -> Any:
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from transformers.cache_utils import DynamicCache, DynamicLayer

    config = model.config
    heads, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads

    class WithCache(torch.nn.Module):
        """The model whose cache is given and returned."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, beam_idx: Any, *past: Any) -> Any:
            cache = DynamicCache()
            for keys, values in zip(past[::2], past[1::2], strict=True):
                layer = DynamicLayer()
                layer.keys, layer.values = keys.index_select(0, beam_idx), values.index_select(0, beam_idx)
                layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
                cache.layers.append(layer)
            places = torch.arange(attention_mask.shape[1])
            is_hidden = places[None, None, None, :] > position_ids[:, None, :, None]
            mask = is_hidden.to(torch.float32) * torch.finfo(torch.float32).min
            made = self.model(
                input_ids=input_ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache
            )
            layers: list[Any] = list(cache.layers)
            return (made.logits, *(part for layer in layers for part in (layer.keys, layer.values)))

    count, new, before = 2, 3, 4
    past = [torch.zeros(count, heads, before, width) for _ in range(2 * config.num_hidden_layers)]
    positions = torch.arange(before, before + new).repeat(count, 1)
    example = (
        torch.ones(count, new, dtype=torch.int64),
        torch.ones(count, before + new, dtype=torch.int64),
        positions,
        torch.arange(count, dtype=torch.int32),
        *past,
    )
    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer reports each shape that the model's code looks at
        decoder = TorchScriptPythonDecoder(
            WithCache().eval(), example_input=example, trace_kwargs={"check_trace": False}
        )
        graph = frontend.convert(frontend.load(decoder))
    _name(graph, config.num_hidden_layers, heads, width)
    return graph


def _name(graph: Any, layers: int, heads: int, width: int) -> None:
    openvino = library()
    kinds: list[tuple[str, str, list[int]]] = [
        *((name, "i64", [-1, -1]) for name in ("input_ids", "attention_mask", "position_ids")),
        ("beam_idx", "i32", [-1]),
    ]
    parts = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    described = [*kinds, *((f"past_key_values.{part}", "f32", [-1, heads, -1, width]) for part in parts)]
    for port, (name, kind, shape) in zip(graph.inputs, described, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_element_type(getattr(openvino.Type, kind))
        port.get_node().set_partial_shape(openvino.PartialShape(shape))
    for port, name in zip(graph.outputs, ["logits", *(f"present.{part}" for part in parts)], strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()


def _keep_cache_as_state(graph: Any, layers: int) -> None:
    """Make the cache a state, which is empty at first: the library finds it by these operations."""
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation, apply_moc_transformations

    apply_moc_transformations(graph, cf=False)  # slices that cut nothing hide the cache from the library
    parts = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    apply_make_stateful_transformation(graph, {f"past_key_values.{part}": f"present.{part}" for part in parts})
    shape = ops.shape_of(graph.input("input_ids"), output_type="i64")
    rows = ops.gather(shape, ops.constant([0]), ops.constant(0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, width = node.get_output_partial_shape(0)
            size = ops.concat([rows, ops.constant([heads.get_length(), 0, width.get_length()])], axis=0)
            node.set_arguments([ops.broadcast(ops.constant(0.0, dtype=node.get_output_element_type(0)), size)])
    graph.validate_nodes_and_infer_types()
