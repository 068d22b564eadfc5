"""Which units go first: those worth least for what they cost, over all layers and kinds.

A budget is not spread evenly: units are ranked by worth per cost, and the first of the ranking go until what is left
keeps the budget. A whole layer goes when what is left in it is worth less, for all that it costs, than the next unit
of the ranking. What must survive (`SPARED`) is not in the ranking.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..configuration_tkd import TKDConfig
from .units import MINIMUM_UNITS, Units, resized_config


Price = Callable[[TKDConfig], float]
Unit = tuple[str, int, int]  # kind, layer (0 for hidden), index (0 for layers)


@dataclass(frozen=True)
class Costs:
    """What one more of each costs a model, in the currency of a price.

    Args:
        heads, neurons: of each layer that is there; little, of time, in one that answers for first tokens alone.
        layers: a layer beside its units.
        hidden: of the residual stream.
    """

    heads: Sequence[float]
    neurons: Sequence[float]
    layers: float
    hidden: float

    @classmethod
    def from_price(cls, config: TKDConfig, price: Price) -> "Costs":
        """By the difference that one more makes to a shape."""
        depth = range(config.num_hidden_layers)
        heads, neurons = (
            [config.heads_of(layer) for layer in depth],
            [config.intermediate_size_of(layer) for layer in depth],
        )
        here, width = price(config), config.hidden_size

        def one_more(counts: list[int]) -> list[list[int]]:
            return [[count + (place == layer) for place, count in enumerate(counts)] for layer in depth]

        a_head = [price(resized_config(config, more, neurons, width)) - here for more in one_more(heads)]
        a_neuron = [price(resized_config(config, heads, more, width)) - here for more in one_more(neurons)]
        # put before the others, so that the last one stays the last
        layer = price(resized_config(config, [1, *heads], [1, *neurons], width)) - here - a_head[0] - a_neuron[0]
        return cls(a_head, a_neuron, layer, price(resized_config(config, heads, neurons, width + 1)) - here)


def removal_order(scores: Units, masks: Units, costs: Costs, kinds: Sequence[str]) -> list[Unit]:
    """The units that may go, in the order in which they go.

    Args:
        scores: what each unit is worth; see `tkd_hf.pruning.importance`.
        masks: what is still there.
        costs: what each unit costs in the layers that are still there.
        kinds: which kinds may go, of `KINDS`.
    """
    alive = [layer for layer, stays in enumerate(masks.layers.tolist()) if stays]
    worth, cost = {}, {}  # of what is left in each layer
    for layer in alive:
        worth[layer] = sum(
            score.sum().item() for score in (scores.heads[layer], scores.neurons[layer], scores.layers[layer])
        )
        # as in the first one: where the last one goes, the one before becomes the last
        cost[layer] = costs.layers + costs.heads[0] * int(masks.heads[layer].sum())
        cost[layer] += costs.neurons[0] * int(masks.neurons[layer].sum())

    ranked = []
    for kind in ("heads", "neurons"):
        if kind in kinds:
            for layer, each in zip(alive, getattr(costs, kind), strict=True):
                pairs = _expendable(getattr(scores, kind)[layer], getattr(masks, kind)[layer], MINIMUM_UNITS[kind])
                ranked += [(score / each, score, (kind, layer, index)) for score, index in pairs]
    if "hidden" in kinds:
        pairs = _expendable(scores.hidden, masks.hidden, MINIMUM_UNITS["hidden"])
        ranked += [(score / costs.hidden, score, ("hidden", 0, index)) for score, index in pairs]

    order = []

    def drop_layers(below: float) -> None:
        """Layers whose rest is worth less for its cost, the worst first."""
        while "layers" in kinds and len(worth) > MINIMUM_UNITS["layers"]:
            layer = min(worth, key=lambda layer: worth[layer] / cost[layer])
            if worth[layer] / cost[layer] >= below:
                return
            order.append(("layers", layer, 0))
            del worth[layer], cost[layer]

    for ratio, score, unit in sorted(ranked):
        drop_layers(below=ratio)
        kind, layer, _ = unit
        if kind != "hidden":
            if layer not in worth:
                continue
            worth[layer] -= score
            cost[layer] -= getattr(costs, kind)[0]
        order.append(unit)
    drop_layers(below=float("inf"))
    return order


def remove_units(masks: Units, gone: Sequence[Unit]) -> Units:
    """The masks with these units gone, too."""
    masks = masks.map(torch.clone)
    for kind, layer, index in gone:
        if kind == "layers":
            masks.layers[layer] = False
        elif kind == "hidden":
            masks.hidden[index] = False
        else:
            getattr(masks, kind)[layer][index] = False
    return masks


def prune_to_budget(keeps: Callable[[Units], bool], masks: Units, order: Sequence[Unit]) -> Units:
    """The masks with as few units gone, in this order, as a budget allows.

    Args:
        keeps: whether what these masks leave keeps the budget; the more is gone, the sooner it does.
        masks: what is still there.
        order: of `removal_order`.
    """
    count = bisect_left(range(len(order)), True, key=lambda count: keeps(remove_units(masks, order[:count])))
    return remove_units(masks, order[:count])


def _expendable(scores: torch.Tensor, mask: torch.Tensor, spared: int) -> list[tuple[float, int]]:
    """Score and index of the units that are there, but for the best of them."""
    pairs = sorted((score, index) for index, score in enumerate(scores.tolist()) if mask[index])
    return pairs[: max(len(pairs) - spared, 0)]
