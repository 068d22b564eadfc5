"""The signals that objectives read from a model: its logits, and layer outputs recorded by forward hooks."""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers.utils import ModelOutput

from ..core.errors import InputError
from .architectures import ARCHITECTURES, TKD


ATTENTION_PROJECTIONS = {"queries": "query", "keys": "key", "values": "value"}  # field of Signals: module of a layer
FEATURES = ("hidden_states", *ATTENTION_PROJECTIONS)

ModelType = TypeVar("ModelType", bound=nn.Module)


@dataclass
class Signals:
    """The outputs of a model for one batch. Features that no objective asked for are empty.

    Args:
        logits: (batch, labels), or (batch, length, labels) per token; `None` for a bare encoder.
        hidden_states: outputs of the embeddings and of each layer, (batch, length, hidden size) each.
        queries: per layer, of its self-attention before the split into heads, (batch, length, width).
        keys: the same for the keys.
        values: the same for the values.
    """

    logits: torch.Tensor | None = None
    hidden_states: Sequence[torch.Tensor] = ()
    queries: Sequence[torch.Tensor] = ()
    keys: Sequence[torch.Tensor] = ()
    values: Sequence[torch.Tensor] = ()


class Recorder:
    """Run a model and return its signals; works with every attention implementation, including sdpa and flash.

    Queries, keys and values are read by forward hooks that are removed after each call, so the model does not change.
    While they are installed, a TKD model computes every token (`all_tokens_computed`).

    Args:
        model: an encoder with or without a head; it may be wrapped by PEFT.
        features: signals to record besides logits, from `FEATURES`.

    Raises:
        InputError: if `features` contain queries, keys or values and the architecture is unknown.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig, BertModel
    >>> from tkd_hf.models.signals import Recorder

    >>> model = BertModel(BertConfig(num_hidden_layers=2))
    >>> signals, _ = Recorder(model, ["queries"])(model, {"input_ids": torch.tensor([[101, 7592, 102]])})
    >>> [tuple(query.shape) for query in signals.queries]
    [(1, 3, 768), (1, 3, 768)]

    ```
    """

    def __init__(self, model: nn.Module, features: Iterable[str] = ()):
        self.features = frozenset(features)
        hooked = self.features & set(ATTENTION_PROJECTIONS)
        modules = attention_projections(model) if hooked else {}
        self._model = model
        self._modules = {name: modules[ATTENTION_PROJECTIONS[name]] for name in hooked}

    def __call__(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[Signals, ModelOutput]:
        """Return the signals, and the model's own output.

        Args:
            model: the model given at construction, or its wrapper for training on several devices.
            inputs: the arguments of its `forward`.
        """
        options = {"output_hidden_states": True} if "hidden_states" in self.features else {}
        all_tokens = all_tokens_computed(self._model) if self._modules else nullcontext()
        with all_tokens, self._recording() as recorded:
            outputs = model(**inputs, **options)
        features = {
            name: [recorded[name][layer] for layer in range(len(modules))] for name, modules in self._modules.items()
        }
        signals = Signals(getattr(outputs, "logits", None), **features)
        if "hidden_states" in self.features:
            signals.hidden_states = outputs.hidden_states
        return signals, outputs

    @contextmanager
    def _recording(self) -> Iterator[dict[str, dict[int, torch.Tensor]]]:
        """Record outputs by the name of the feature and the layer while the model runs inside the context."""
        recorded: dict[str, dict[int, torch.Tensor]] = {name: {} for name in self._modules}

        def record(name: str, layer: int, module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            recorded[name][layer] = output

        handles = [
            module.register_forward_hook(partial(record, name, layer))
            for name, modules in self._modules.items()
            for layer, module in enumerate(modules)
        ]
        try:
            yield recorded
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def all_tokens_computed(model: nn.Module) -> Iterator[None]:
    """Make a TKD model compute every token, in the shape of the batch, because hooks on its modules need them.

    Other models always do, and are not changed. See `TKDModel.compute_all_tokens`.

    Args:
        model: a TKD model with or without a head, or a wrapper around one.
    """
    # a TKD that was loaded as remote code has a class of its own, so look for the attribute and not for the class
    encoders: list[Any] = [module for module in model.modules() if hasattr(module, "compute_all_tokens")]
    previous = [encoder.compute_all_tokens for encoder in encoders]
    for encoder in encoders:
        encoder.compute_all_tokens = True
    try:
        yield
    finally:
        for encoder, value in zip(encoders, previous, strict=True):
            encoder.compute_all_tokens = value


def without_adapters(model: ModelType) -> ModelType:
    """Return the model inside a PEFT wrapper, or the model itself if it has none."""
    get_base_model = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def accepted_inputs(model: nn.Module) -> set[str]:
    """Return the argument names of a model's `forward`, looking through PEFT, torch.compile and parallel wrappers."""
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    return set(inspect.signature(without_adapters(model).forward).parameters)


def attention_projections(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the modules `query`, `key` and `value` of every layer, in the order of the layers.

    Raises:
        InputError: if the module names match no known architecture.
    """
    for architecture in (TKD, *ARCHITECTURES.values()):
        modules = {
            projection: _modules_by_layer(model, name) for projection, name in architecture.projections().items()
        }
        if all(modules.values()):
            return modules
    raise InputError(
        f"cannot read the attention of {type(model).__name__}, only that of models built like "
        f"{', '.join(ARCHITECTURES)} and tkd; objectives other than relations and attention work with any teacher"
    )


def _modules_by_layer(model: nn.Module, name: str) -> list[nn.Module]:
    """Return the modules with that name, where `#` stands for the layer's index, in the order of the layers."""
    pattern = re.compile(rf"(?:.*\.)?{re.escape(name).replace(re.escape('#'), '([0-9]+)')}")
    by_layer = {int(match[1]): module for path, module in model.named_modules() if (match := pattern.fullmatch(path))}
    return [by_layer[layer] for layer in sorted(by_layer)]
