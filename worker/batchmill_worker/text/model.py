"""Models of sentence-transformers: loading them, reading texts for them, and running batches.

Everything that is loaded for a text operator is loaded here. Code that is stored with the weights is never run.
"""

from __future__ import annotations

import importlib
from threading import Lock
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidParams, OperatorFailed, did_you_mean
from batchmill.operators.contract import RowError
from batchmill_worker.models import setup_context
from batchmill_worker.models.model_source import content_digest, fingerprint_files, hub_revision, locate_model
from batchmill_worker.runtime.failures import Failure, operator_failed
from batchmill_worker.text.kinds import ModelKind, require_kind
from batchmill_worker.text.request import missing_extra
from batchmill_worker.text.tokens import TokenReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from batchmill.operators.contract import BackendInfo
    from batchmill_worker.backends.base import Backend
    from batchmill_worker.backends.torch_backend import TorchBackend
    from batchmill_worker.runtime.torch_runtime import TorchRuntime
    from batchmill_worker.text.backend_choice import LoadedModel
    from batchmill_worker.text.columns import Text
    from batchmill_worker.text.request import ModelRequest
    from batchmill_worker.text.tokens import TextReader

_NO_LIMIT = 1_000_000_000
"""Tokenisers report a length beyond this if they have no limit."""
_CHARACTERS_PER_TOKEN = 4
"""For the cost of a text whose tokens are unknown."""

_CLASSES = {
    ModelKind.EMBEDDER: ("SentenceTransformer", "sentence_embedding"),
    ModelKind.CLASSIFIER: ("CrossEncoder", "scores"),
}
"""The class of sentence-transformers that loads a kind, and the name it gives to what it computes."""


class TextModel:
    """A model in evaluation mode on its device. Torch runs it until `choose_backend` is called.

    files: a fingerprint of the files that it was loaded from; "": unknown.
    """

    def __init__(self, loaded: LoadedModel, runtime: TorchRuntime, request: ModelRequest, files: str = "") -> None:
        self.model = loaded.torch.model  # a `SentenceTransformer` or a `CrossEncoder`
        self._loaded = loaded
        self._backend: Backend = loaded.torch
        self._files = files
        self._runtime = runtime
        self.request = request
        self._limit = self._limited(self.model.max_seq_length)

    @property
    def backend(self) -> BackendInfo:
        """What computes the outputs."""
        return self._backend.info

    def choose_backend(self, reader: TextReader, sample: Text = "A text.") -> None:
        """Run the model with the backend that the job asks for. `sample`: as in `reader`.

        The weights of torch are dropped if it is another one. Raises as `backend_choice.choose_backend`.
        """
        from batchmill_worker.text.backend_choice import choose_backend

        self._backend = choose_backend(self.request, self._loaded, reader, sample)
        if self._backend is not self._loaded.torch:
            self.model.to("meta")

    @property
    def limit(self) -> int | None:
        """The longest text in tokens, special ones included; None: no limit."""
        return self._limit

    @property
    def labels(self) -> list[str]:
        """The labels of a classifier, in the order of its scores."""
        return [str(label) for _, label in sorted(self.model.config.id2label.items())]

    @property
    def problem_type(self) -> str | None:
        """The kind of scores in a classifier's configuration: `multi_label_classification`, `regression`, ..."""
        kind: str | None = self.model.config.problem_type
        return kind

    @property
    def activation(self) -> Callable[[Tensor], Tensor]:
        """The function that maps the outputs of a cross-encoder to their range."""
        activation: Callable[[Tensor], Tensor] = self.model.activation_fn
        return activation

    def dimensions(self, asked: int | None = None) -> int | None:
        """Return how many numbers a vector has, if `asked` are to be kept; None: all, and their number is unknown.

        Raises `InvalidParams` if more are asked for than the model makes.
        """
        own: int | None = self.model.get_embedding_dimension()
        if asked is not None and own is not None and asked > own:
            raise self.request.refusal(
                f"dimensions is {asked}, but {self.request.model!r} makes vectors of {own} numbers.",
                hint=f"Use {own} or fewer, or leave it out.",
                parameter="dimensions",
            )
        truncated: int | None = self.model.truncate_dim
        return asked or truncated or own

    def prompt(self, prompt: str | None, name: str | None = None) -> str:
        """Return the text to put before every text: the given one, else the model's of that name, else its default."""
        name = name or (self.model.default_prompt_name if prompt is None else None)
        if name is None:
            return prompt or ""
        if name not in self.model.prompts:
            raise self.request.refusal(
                f"{self.request.model!r} has no prompt {name!r}.",
                hint=did_you_mean(name, self.model.prompts) or "It has none: use the parameter 'prompt'.",
                parameter="prompt_name",
            )
        return str(self.model.prompts[name])

    def decode(self, tokens: list[int]) -> str | RowError:
        """Return the text of tokens, without special ones; a `RowError` for what is no token of the model."""
        known = len(self.model.tokenizer)
        wrong = next((token for token in tokens if not 0 <= token < known), None)
        if wrong is not None:
            return RowError(f"{wrong} is no token of the model, whose tokens are 0 to {known - 1}")
        return str(self.model.tokenizer.decode(tokens, skip_special_tokens=True))

    def reader(self, prompt: str = "", sample: Text = "A text.") -> TextReader:
        """Make the reader of texts, or pairs, like `sample` for this model.

        A reader that tokenises texts itself is tried on a few texts. If its features are not exactly those that the
        model makes, as for models that are not plain transformers, the model makes them.
        """
        if self._has_fast_tokenizer() and self._agrees(
            self._token_reader(prompt, sample, truncate=True), prompt, sample
        ):
            return self._token_reader(prompt, sample, truncate=self.request.truncate)
        if not self.request.truncate:
            raise self.request.refusal(
                f"{self.request.model!r} does not report the tokens of a text, so truncate=false is not possible.",
                hint="Leave out 'truncate'.",
                parameter="truncate",
            )
        return _ModelReader(self.model, prompt, self._limit)

    def forward(self, features: Mapping[str, Any], then: Callable[[Tensor], Tensor]) -> Tensor:
        """Run a batch, apply `then` to the output as float32 on the device, and return the result in host memory."""
        import torch

        with torch.inference_mode():
            return self._runtime.to_host(then(self._backend.forward(features)))

    def fingerprint(self) -> str:
        """Return a text that changes with the model's files. Raises `LookupError` if they are unknown."""
        if not self._files:
            raise LookupError(f"the loaded revision of {self.request.model!r} is unknown")
        return self._files

    def memory_bytes(self) -> int:
        """Return the bytes of the weights on the device."""
        return self._backend.memory_bytes()

    def _limited(self, own: int | None) -> int | None:
        """Return the longest text in tokens, and set it in the model if it is not its own limit."""
        own = own if own is not None and own < _NO_LIMIT else None
        asked = self.request.max_tokens
        if asked is None:
            return own
        if own is not None and asked > own:
            raise self.request.refusal(
                f"max_tokens is {asked}, but {self.request.model!r} takes at most {own}.",
                hint=f"Use {own} or fewer, or leave it out.",
                parameter="max_tokens",
            )
        try:
            self.model.max_seq_length = asked
        except AttributeError as error:
            raise self.request.refusal(
                f"{self.request.model!r} reads texts of any length, and max_tokens does not change that.",
                hint="Leave it out.",
                parameter="max_tokens",
            ) from error
        return asked

    def _has_fast_tokenizer(self) -> bool:
        tokenizer = self.model.tokenizer
        return getattr(tokenizer, "is_fast", False) and tokenizer.pad_token_id is not None

    def _token_reader(self, prompt: str, sample: Text, *, truncate: bool) -> TokenReader:
        own = self.model.preprocess([sample], prompt=prompt or None)
        constants = {name: value for name, value in own.items() if isinstance(value, str | int)}
        return TokenReader(
            self.model.tokenizer,
            self._runtime,
            prompt=prompt,
            limit=self._limit,
            truncate=truncate,
            constants=constants,
        )

    def _agrees(self, reader: TokenReader, prompt: str, sample: Text) -> bool:
        long = " ".join(["of many words"] * ((self._limit or 0) // 3 + 4))
        texts: list[Text] = ["", "Été 1!", long]
        if not isinstance(sample, str):
            texts = [("", ""), ("Été 1!", "short"), (long, "short"), (long, long)]
        own = self.model.preprocess(list(texts), prompt=prompt or None)
        ours = reader.features(texts)
        return own.keys() == ours.keys() and all(_same(own[name], value) for name, value in ours.items())


def _same(one: Any, other: Any) -> bool:
    import torch

    tensors = [isinstance(value, torch.Tensor) for value in (one, other)]
    return torch.equal(one, other) if all(tensors) else not any(tensors) and bool(one == other)


class _ModelReader:
    """A `TextReader` that leaves the texts to the model; their costs are estimated from their characters."""

    def __init__(self, model: Any, prompt: str, limit: int | None) -> None:
        self._model = model
        self._prompt = prompt
        self._limit = limit
        self._lock = Lock()

    def costs(self, texts: Sequence[Text | RowError]) -> list[int]:
        return [1 if isinstance(text, RowError) else self._estimate(text) for text in texts]

    def admit(self, texts: Sequence[Text | RowError]) -> tuple[list[Text], dict[int, RowError]]:
        errors = {place: text for place, text in enumerate(texts) if isinstance(text, RowError)}
        return [text for text in texts if not isinstance(text, RowError)], errors

    def features(self, texts: Sequence[Text]) -> dict[str, Any]:
        with self._lock:
            features: dict[str, Any] = self._model.preprocess(list(texts), prompt=self._prompt or None)
            return features

    def _estimate(self, text: Text) -> int:
        characters = len(self._prompt) + (len(text) if isinstance(text, str) else sum(map(len, text)))
        tokens = 2 + characters // _CHARACTERS_PER_TOKEN
        return tokens if self._limit is None else min(tokens, self._limit)


def load_embedder(request: ModelRequest, device: str, advice: str = "") -> TextModel:
    """Load an embedding model.

    advice: for the error if it is of another kind; by default to use it with the operators for that kind.

    Raises `InvalidParams` if there is no such model, it is of another kind, or the device or the model does not support
    the request; `OperatorFailed` if it cannot be loaded, and `MissingExtra` if the libraries are not installed.
    """
    return _load(request, device, ModelKind.EMBEDDER, advice)


def load_classifier(request: ModelRequest, device: str, advice: str = "") -> TextModel:
    """Load a sequence classifier with any labels. Raises as `load_embedder`."""
    return _load(request, device, ModelKind.CLASSIFIER, advice)


def load_tokenizer(request: ModelRequest) -> Any:
    """Load the tokeniser of a model of any kind; it returns the positions of tokens in a text.

    Raises as `load_embedder`.
    """
    source = locate_model(request.model, setup_context.current().locations)
    library = _import(request, "transformers")
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise _load_error(request, source, error) from error
    if not tokenizer.is_fast:
        raise InvalidParams(
            f"operator {request.operator!r} expects a fast tokeniser, which returns the positions of tokens, "
            f"got that of {request.model!r}, {type(tokenizer).__name__}.",
            hint="Name a model that comes with a tokenizer.json.",
            operator=request.operator,
            parameter="model",
        )
    return tokenizer


def _load(request: ModelRequest, device: str, kind: ModelKind, advice: str) -> TextModel:
    source = locate_model(request.model, setup_context.current().locations)
    files = fingerprint_files(source)
    library = _import(request, "sentence_transformers")
    require_kind(request.operator, request.model, source, kind, advice)
    from batchmill_worker.backends.torch_backend import TorchBackend
    from batchmill_worker.runtime.torch_runtime import TorchRuntime
    from batchmill_worker.text.backend_choice import LoadedModel, first_precision

    name, output = _CLASSES[kind]

    def load(precision: str) -> TorchBackend:
        runtime = TorchRuntime(device, precision)
        try:
            model = getattr(library, name)(
                source, device=device, trust_remote_code=False, model_kwargs={"dtype": runtime.dtype}
            ).eval()
        except MemoryError:
            raise
        except Exception as error:
            raise _load_error(request, source, error) from error
        for module in list(model)[1:]:  # the first has its type from `model_kwargs`, which leaves some at float32
            module.to(runtime.dtype)
        return TorchBackend(model, runtime, output)

    precision = first_precision(request, device)
    loaded = LoadedModel(load(precision), load, lambda: content_digest(source))
    return TextModel(loaded, TorchRuntime(device, precision), request, files or hub_revision(source))


def _import(request: ModelRequest, library: str) -> Any:
    """Import a library that loads models, and switch its progress bars off."""
    try:
        module = importlib.import_module(library)
        from huggingface_hub.utils.tqdm import disable_progress_bars
        from transformers.utils import logging
    except ImportError as error:
        raise missing_extra(request.operator, request.extra, error) from error
    disable_progress_bars()
    logging.disable_progress_bar()
    return module


def _load_error(request: ModelRequest, source: str, error: Exception) -> OperatorFailed:
    from huggingface_hub.constants import HF_HUB_CACHE

    if source.startswith("/"):
        where = f"from {source}"
        hint = (
            "The folder must contain a complete sentence-transformers or transformers model, without code of its own."
        )
    else:
        where = f"from the Hugging Face hub, nor from its copy in {HF_HUB_CACHE}"
        hint = (
            "Check the name, the worker's network and HF_TOKEN; without a network use a folder, package:NAME, or "
            "download the model to the cache beforehand."
        )
    what = f"could not load the model {request.model!r} {where}"
    return operator_failed(request.operator, what, Failure.of(error), hint=hint)
