"""The units that structured pruning removes: heads and neurons per layer, whole layers, and hidden width.

All of structured pruning works on `Units`, which holds one value per unit. Booleans make it a mask (`True` stays),
numbers make it scores (how important each unit is).
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from ..core.errors import InputError
from ..models.configuration_tkd import TKDConfig
from ..models.layers_tkd import TKDLayer
from ..models.modeling_tkd import TKDModel, TKDPreTrainedModel
from .arguments import KINDS


# Pruning never goes below these counts. Heads and neurons are counted in every layer that stays.
MINIMUM_UNITS = {"heads": 1, "neurons": 4, "layers": 1, "hidden": 8}


@dataclass
class Units:
    """One value per unit of an encoder: a mask of units that stay, or the importance of each unit.

    Args:
        heads: attention heads, one tensor of shape (heads,) per layer.
        neurons: feed-forward neurons, one tensor of shape (neurons,) per layer.
        layers: whole layers, shape (layers,).
        hidden: dimensions of the residual stream, shape (hidden_size,).

    Example:

    ```python
    >>> from tkd_hf import TKDConfig
    >>> from tkd_hf.pruning.units import Units

    >>> config = TKDConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=10)
    >>> masks = Units.full(config, True)
    >>> masks.layers[1] = masks.heads[0][2] = masks.neurons[2][:7] = False
    >>> pruned = masks.pruned_config(config)
    >>> pruned.num_hidden_layers, pruned.heads_per_layer, pruned.intermediate_sizes
    (2, [3, 4], [10, 3])
    >>> masks.removed()
    {'heads': {'0': '2'}, 'neurons': {'2': '0-6'}, 'layers': '1', 'hidden': ''}

    ```
    """

    heads: list[torch.Tensor]
    neurons: list[torch.Tensor]
    layers: torch.Tensor
    hidden: torch.Tensor

    @classmethod
    def full(cls, config: TKDConfig, value: Any) -> "Units":
        """Return units of a model with this configuration, all with the same value."""
        layers = range(config.num_hidden_layers)
        return cls(
            [torch.full((config.heads_of(layer),), value) for layer in layers],
            [torch.full((config.intermediate_size_of(layer),), value) for layer in layers],
            torch.full((config.num_hidden_layers,), value),
            torch.full((config.hidden_size,), value),
        )

    def map(self, function: Callable, *more_units: "Units") -> "Units":
        """Apply a function to each tensor, together with the corresponding tensors of `more_units`."""
        return Units(
            [function(*tensors) for tensors in zip(self.heads, *(units.heads for units in more_units), strict=True)],
            [
                function(*tensors)
                for tensors in zip(self.neurons, *(units.neurons for units in more_units), strict=True)
            ],
            function(self.layers, *(units.layers for units in more_units)),
            function(self.hidden, *(units.hidden for units in more_units)),
        )

    def pruned_config(self, config: TKDConfig) -> TKDConfig:
        """Return the configuration of the model that these masks leave of a model with `config`."""
        layers = self.layers.nonzero().flatten().tolist()
        heads = [int(self.heads[layer].sum()) for layer in layers]
        neurons = [int(self.neurons[layer].sum()) for layer in layers]
        return resized_config(config, heads, neurons, int(self.hidden.sum()))

    def removed(self) -> dict[str, Any]:
        """Return the indices of the units that these masks remove, as text, for the run record.

        Indices count from 0 in the unpruned model. Heads and neurons of a layer that is removed as a whole are not
        listed.
        """
        remaining_layers = [layer for layer in range(len(self.heads)) if self.layers[layer]]

        def removed_by_layer(masks: list[torch.Tensor]) -> dict[str, str]:
            removed = {str(layer): (~masks[layer]).nonzero().flatten().tolist() for layer in remaining_layers}
            return {layer: format_ranges(indices) for layer, indices in removed.items() if indices}

        return {
            "heads": removed_by_layer(self.heads),
            "neurons": removed_by_layer(self.neurons),
            "layers": format_ranges((~self.layers).nonzero().flatten().tolist()),
            "hidden": format_ranges((~self.hidden).nonzero().flatten().tolist()),
        }


def encoder_of(model: TKDPreTrainedModel) -> TKDModel:
    """Return the encoder of a TKD model with or without a head."""
    return cast(TKDModel, model.base_model)


def layers_of(model: TKDPreTrainedModel) -> list[TKDLayer]:
    """Return the layers of a TKD model's encoder."""
    return [cast(TKDLayer, layer) for layer in encoder_of(model).layers]


def head_dim_of(config: TKDConfig) -> int:
    """Return the width of one attention head."""
    assert config.head_dim is not None  # TKDConfig.__post_init__ sets it
    return config.head_dim


def resized_config(config: TKDConfig, heads: list[int], neurons: list[int], hidden: int) -> TKDConfig:
    """Return a copy of a configuration with other sizes.

    The width of a head does not change, and neither does the width of factorised embeddings.

    Args:
        config: the configuration to copy.
        heads: heads per layer; the number of entries is the number of layers.
        neurons: feed-forward neurons per layer.
        hidden: width of the residual stream.
    """
    config = copy.deepcopy(config)
    if config.embedding_size == config.hidden_size:
        config.embedding_size = hidden
    config.hidden_size = hidden
    config.num_hidden_layers = len(heads)
    config.num_attention_heads, config.intermediate_size = max(heads), max(neurons)
    config.heads_per_layer = heads if len(set(heads)) > 1 else None
    config.intermediate_sizes = neurons if len(set(neurons)) > 1 else None
    config.validate_architecture()
    return config


def check_kinds(kinds: Iterable[str], model: PreTrainedModel) -> tuple[str, ...]:
    """Return the kinds of units to prune, in the order of `KINDS`.

    Raises:
        InputError: if no kind is given, a kind is unknown, or this model cannot lose units of that kind.
    """
    if not isinstance(model, TKDPreTrainedModel):
        raise InputError(
            f"{type(model).__name__} cannot be pruned by structure; convert it with tkd_hf.models.conversion.to_tkd"
        )
    chosen = set(kinds)
    if not chosen or not chosen <= set(KINDS):
        raise InputError(f"units={', '.join(sorted(chosen)) or 'none'}; choose among {', '.join(KINDS)}")
    if "hidden" in chosen and model.config.position_embedding_type == "sinusoidal":
        raise InputError(
            "units=hidden does not work for a model with position_embedding_type='sinusoidal', because its position "
            "embeddings depend on its width; prune heads, neurons and layers"
        )
    return tuple(kind for kind in KINDS if kind in chosen)


def format_ranges(numbers: list[int]) -> str:
    """Write ascending numbers as text; consecutive numbers become a range.

    Example:

    ```python
    >>> from tkd_hf.pruning.units import format_ranges
    >>> format_ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'

    ```
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
