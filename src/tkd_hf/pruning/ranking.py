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
from .units import SPARED, Units, reshaped


Price = Callable[[TKDConfig], float]
Unit = tuple[str, int, int]  # kind, layer (0 for hidden), index (0 for layers)


@dataclass(frozen=True)
class Costs:
    """What one more of each costs a model, in the currency of a price; `layer` is a layer beside its units."""

    heads: float
    neurons: float
    layers: float
    hidden: float

    @classmethod
    def of(cls, config: TKDConfig, price: Price) -> "Costs":
        """By the difference that one more makes to a shape."""
        depth = range(config.num_hidden_layers)
        heads, neurons = (
            [config.heads_of(layer) for layer in depth],
            [config.intermediate_size_of(layer) for layer in depth],
        )
        here = price(config)
        head = price(reshaped(config, [heads[0] + 1, *heads[1:]], neurons, config.hidden_size)) - here
        neuron = price(reshaped(config, heads, [neurons[0] + 1, *neurons[1:]], config.hidden_size)) - here
        layer = price(reshaped(config, [*heads, 1], [*neurons, 1], config.hidden_size)) - here - head - neuron
        return cls(head, neuron, layer, price(reshaped(config, heads, neurons, config.hidden_size + 1)) - here)


def removal_order(scores: Units, masks: Units, costs: Costs, kinds: Sequence[str]) -> list[Unit]:
    """The units that may go, in the order in which they go.

    Args:
        scores: what each unit is worth; see `tkd_hf.pruning.importance`.
        masks: what is still there.
        costs: what each unit costs.
        kinds: which kinds may go, of `KINDS`.
    """
    alive = [layer for layer, stays in enumerate(masks.layers.tolist()) if stays]
    worth, cost = {}, {}  # of what is left in each layer
    for layer in alive:
        worth[layer] = sum(
            score.sum().item() for score in (scores.heads[layer], scores.neurons[layer], scores.layers[layer])
        )
        cost[layer] = costs.layers + costs.heads * int(masks.heads[layer].sum())
        cost[layer] += costs.neurons * int(masks.neurons[layer].sum())

    ranked = []
    for kind in ("heads", "neurons"):
        if kind in kinds:
            for layer in alive:
                pairs = _expendable(getattr(scores, kind)[layer], getattr(masks, kind)[layer], SPARED[kind])
                ranked += [(score / getattr(costs, kind), score, (kind, layer, index)) for score, index in pairs]
    if "hidden" in kinds:
        pairs = _expendable(scores.hidden, masks.hidden, SPARED["hidden"])
        ranked += [(score / costs.hidden, score, ("hidden", 0, index)) for score, index in pairs]

    order = []

    def drop_layers(below: float) -> None:
        """Layers whose rest is worth less for its cost, the worst first."""
        while "layers" in kinds and len(worth) > SPARED["layers"]:
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
            cost[layer] -= getattr(costs, kind)
        order.append(unit)
    drop_layers(below=float("inf"))
    return order


def without(masks: Units, gone: Sequence[Unit]) -> Units:
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


def cut_to(keeps: Callable[[Units], bool], masks: Units, order: Sequence[Unit]) -> Units:
    """The masks with as few units gone, in this order, as a budget allows.

    Args:
        keeps: whether what these masks leave keeps the budget; the more is gone, the sooner it does.
        masks: what is still there.
        order: of `removal_order`.
    """
    count = bisect_left(range(len(order)), True, key=lambda count: keeps(without(masks, order[:count])))
    return without(masks, order[:count])


def _expendable(scores: torch.Tensor, mask: torch.Tensor, spared: int) -> list[tuple[float, int]]:
    """Score and index of the units that are there, but for the best of them."""
    pairs = sorted((score, index) for index, score in enumerate(scores.tolist()) if mask[index])
    return pairs[: max(len(pairs) - spared, 0)]
