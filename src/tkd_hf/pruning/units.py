"""What structured pruning takes out of a TKD: heads and neurons by layer, whole layers, and hidden width.

All of pruning speaks in `Units`: one value for each of them. With truth values they are masks (what stays), with
numbers they are scores (what each is worth).
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ..configuration_tkd import TKDConfig
from ..errors import InputError
from ..modeling_tkd import TKDPreTrainedModel


KINDS = ("heads", "neurons", "layers", "hidden")
DEFAULT_KINDS = ("heads", "neurons", "layers")
# what is left of each at least: of heads and neurons in every layer that stays
MINIMUM_UNITS = {"heads": 1, "neurons": 4, "layers": 1, "hidden": 8}


@dataclass
class Units:
    """One value for each unit of an encoder.

    Args:
        heads: for each layer, (heads,).
        neurons: of the feed-forward blocks, for each layer, (neurons,).
        layers: (layers,).
        hidden: of the residual stream, (hidden size,).

    Example:

    ```python
    >>> from tkd_hf import TKDConfig
    >>> from tkd_hf.pruning.units import Units

    >>> config = TKDConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=10)
    >>> masks = Units.full(config, True)
    >>> masks.layers[1] = masks.heads[0][2] = masks.neurons[2][:7] = False
    >>> shape = masks.pruned_config(config)
    >>> shape.num_hidden_layers, shape.heads_per_layer, shape.intermediate_sizes
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
        """The same value for every unit of this shape."""
        layers = range(config.num_hidden_layers)
        return cls(
            [torch.full((config.heads_of(layer),), value) for layer in layers],
            [torch.full((config.intermediate_size_of(layer),), value) for layer in layers],
            torch.full((config.num_hidden_layers,), value),
            torch.full((config.hidden_size,), value),
        )

    def map(self, function: Callable, *others: "Units") -> "Units":
        """The function of each tensor, and of those in the same place of the others."""
        return Units(
            [function(*tensors) for tensors in zip(self.heads, *(other.heads for other in others), strict=True)],
            [function(*tensors) for tensors in zip(self.neurons, *(other.neurons for other in others), strict=True)],
            function(self.layers, *(other.layers for other in others)),
            function(self.hidden, *(other.hidden for other in others)),
        )

    def pruned_config(self, config: TKDConfig) -> TKDConfig:
        """Of masks: the configuration of what stays of a model with this one."""
        kept = self.layers.nonzero().flatten().tolist()
        heads = [int(self.heads[layer].sum()) for layer in kept]
        neurons = [int(self.neurons[layer].sum()) for layer in kept]
        return resized_config(config, heads, neurons, int(self.hidden.sum()))

    def removed(self) -> dict[str, Any]:
        """Of masks: what goes, counted from 0 in the model as it was; of a layer that goes, nothing else is listed."""
        stays = [str(layer) for layer in range(len(self.heads)) if self.layers[layer]]

        def by_layer(masks: list[torch.Tensor]) -> dict[str, str]:
            return {
                layer: gone
                for layer in stays
                if (gone := format_ranges((~masks[int(layer)]).nonzero().flatten().tolist()))
            }

        return {
            "heads": by_layer(self.heads),
            "neurons": by_layer(self.neurons),
            "layers": format_ranges((~self.layers).nonzero().flatten().tolist()),
            "hidden": format_ranges((~self.hidden).nonzero().flatten().tolist()),
        }


def resized_config(config: TKDConfig, heads: list[int], neurons: list[int], hidden: int) -> TKDConfig:
    """A configuration with as many layers as there are entries, each with so many heads and neurons.

    The width of a head stays, and so does that of factorised embeddings.
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
    """The kinds of units to prune, in our order.

    Raises:
        InputError: for an unknown kind, none, or one that this model cannot lose.
    """
    if not isinstance(model, TKDPreTrainedModel):
        raise InputError(
            f"{type(model).__name__} cannot be pruned in structure; convert it with tkd_hf.conversion.to_tkd"
        )
    kinds = set(kinds)
    if not kinds or not kinds <= set(KINDS):
        raise InputError(f"units={', '.join(sorted(kinds)) or 'none'}; choose among {', '.join(KINDS)}")
    if "hidden" in kinds and model.config.position_embedding_type == "sinusoidal":
        raise InputError(
            "units=hidden for a model with position_embedding_type='sinusoidal', whose positions change with its "
            "width; prune heads, neurons and layers"
        )
    return tuple(kind for kind in KINDS if kind in kinds)


def format_ranges(numbers: list[int]) -> str:
    """Ascending numbers as text, runs of them by their ends.

    Example:

    ```python
    >>> from tkd_hf.pruning.units import format_ranges
    >>> format_ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'

    ```
    """
    runs = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
