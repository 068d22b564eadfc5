"""What objectives read of a model: its logits, and what passes through its layers, recorded by hooks."""

import inspect
import re
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers.utils import ModelOutput

from .conversion import ARCHITECTURES
from .errors import InputError


PROJECTIONS = {"queries": "query", "keys": "key", "values": "value"}
FEATURES = ("hidden_states", *PROJECTIONS)


@dataclass
class Signals:
    """What a model computed of one batch; what no objective asked for is `None`.

    Args:
        logits: (batch, labels), or (batch, length, labels) for a label a token; `None` of a bare encoder.
        hidden_states: of the embeddings and of each layer, (batch, length, hidden size) each.
        queries, keys, values: of each layer's self-attention before it is split into heads, (batch, length, width).
    """

    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    queries: tuple[torch.Tensor, ...] | None = None
    keys: tuple[torch.Tensor, ...] | None = None
    values: tuple[torch.Tensor, ...] | None = None


class Recorder:
    """Runs a model and returns its signals; works with any implementation of attention, sdpa and flash included.

    Queries, keys and values are read by forward hooks that last for one call: the model itself stays as it is.

    Args:
        model: an encoder, with a head or without, perhaps wrapped by PEFT.
        features: names among `FEATURES`.

    Raises:
        InputError: if the model's projections are to be read and it is built in none of the known ways.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig, BertModel
    >>> from tkd_hf.signals import Recorder

    >>> model = BertModel(BertConfig(num_hidden_layers=2))
    >>> signals, _ = Recorder(model, ["queries"])(model, {"input_ids": torch.tensor([[101, 7592, 102]])})
    >>> [tuple(query.shape) for query in signals.queries]
    [(1, 3, 768), (1, 3, 768)]

    ```
    """

    def __init__(self, model: nn.Module, features: Iterable[str] = ()):
        self.features = frozenset(features)
        wanted = self.features & set(PROJECTIONS)
        modules = attention_projections(model) if wanted else {}
        self._modules = {name: modules[PROJECTIONS[name]] for name in wanted}

    def __call__(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[Signals, ModelOutput]:
        """The signals, and the model's own output as it would be without them.

        Args:
            model: the model, or what wraps it for training on several devices.
            inputs: its arguments.
        """
        wanted = {"output_hidden_states": True} if "hidden_states" in self.features else {}
        with self._recording() as recorded:
            outputs = model(**inputs, **wanted)
        signals = Signals(getattr(outputs, "logits", None), **recorded)
        if wanted:
            signals.hidden_states = outputs.hidden_states
        return signals, outputs

    @contextmanager
    def _recording(self):
        recorded = {name: [None] * len(modules) for name, modules in self._modules.items()}

        def keep(name: str, layer: int):
            def hook(module, inputs, output):
                recorded[name][layer] = output

            return hook

        handles = [
            module.register_forward_hook(keep(name, layer))
            for name, modules in self._modules.items()
            for layer, module in enumerate(modules)
        ]
        try:
            yield recorded
        finally:
            for handle in handles:
                handle.remove()


def without_adapters(model: nn.Module) -> nn.Module:
    """The model inside what PEFT wraps it in; its `forward` and its class say what it takes and gives."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def accepted_inputs(model: nn.Module) -> set[str]:
    """The names of what a model's `forward` takes, whatever wraps it for training or compiles it."""
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    return set(inspect.signature(without_adapters(model).forward).parameters)


def attention_projections(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules `query`, `key` and `value` of each layer, in order.

    Raises:
        InputError: if the model's modules are named like those of no known architecture.
    """
    ours = {name: name for name in ARCHITECTURES["bert"].encoder.values()}
    for names in (ours, *(architecture.encoder for architecture in ARCHITECTURES.values())):
        theirs = {our_name: name for name, our_name in names.items()}
        found = {part: _layers(model, theirs[f"layers.#.attention.{part}"]) for part in PROJECTIONS.values()}
        if all(found.values()):
            return found
    raise InputError(
        f"the attention of {type(model).__name__} cannot be read; models whose attention can be are those built like "
        f"{', '.join(ARCHITECTURES)} and tkd. Without relations and attention any teacher will do"
    )


def _layers(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules of that name, `#` standing for the layer, by layer."""
    pattern = re.compile(rf"(?:.*\.)?{re.escape(name).replace(re.escape('#'), '([0-9]+)')}")
    found = {int(match[1]): module for path, module in model.named_modules() if (match := pattern.fullmatch(path))}
    return [found[layer] for layer in sorted(found)]
