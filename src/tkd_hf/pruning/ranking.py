"""Rank all units of a model by importance per cost, and remove the lowest until a budget is met.

The budget is not divided evenly between layers: units of all layers and kinds are in one ranking, ordered by their
importance per unit of cost (parameters or milliseconds). A whole layer is removed as soon as the units left in it,
together, have a lower ratio of importance to cost than the next unit of the ranking. The units that must stay
(`MINIMUM_UNITS`) are not in the ranking.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..models.configuration_tkd import TKDConfig
from .units import MINIMUM_UNITS, Units, resized_config


Price = Callable[[TKDConfig], float]  # the cost of a model of this shape, in parameters or milliseconds
Unit = tuple[str, int, int]  # kind, layer (0 for hidden), index (0 for layers)


@dataclass(frozen=True)
class Costs:
    """The cost of one additional unit of each kind.

    Args:
        heads, neurons: one value per layer that is still in the model. A unit of the last layer may take less time,
            because the last layer of a classifier of whole texts is computed for the first token only.
        layers: a layer without its heads and neurons.
        hidden: one dimension of the residual stream.
    """

    heads: Sequence[float]
    neurons: Sequence[float]
    layers: float
    hidden: float

    @classmethod
    def from_price(cls, config: TKDConfig, price: Price) -> "Costs":
        """Compute each cost as the difference in price that one more unit makes."""
        layers = range(config.num_hidden_layers)
        heads = [config.heads_of(layer) for layer in layers]
        neurons = [config.intermediate_size_of(layer) for layer in layers]
        width, base_price = config.hidden_size, price(config)

        def with_one_more(counts: list[int], layer: int) -> list[int]:
            return [count + (index == layer) for index, count in enumerate(counts)]

        head_costs = [
            price(resized_config(config, with_one_more(heads, layer), neurons, width)) - base_price for layer in layers
        ]
        neuron_costs = [
            price(resized_config(config, heads, with_one_more(neurons, layer), width)) - base_price for layer in layers
        ]
        # The additional layer comes first, so that the last layer stays the last.
        with_layer = price(resized_config(config, [1, *heads], [1, *neurons], width))
        layer_cost = with_layer - base_price - head_costs[0] - neuron_costs[0]
        hidden_cost = price(resized_config(config, heads, neurons, width + 1)) - base_price
        return cls(head_costs, neuron_costs, layer_cost, hidden_cost)


def removal_order(scores: Units, masks: Units, costs: Costs, kinds: Sequence[str]) -> list[Unit]:
    """Return the units that may be removed, in the order in which to remove them.

    Args:
        scores: importance of each unit; see `tkd_hf.pruning.importance`.
        masks: units that are still in the model.
        costs: cost of each unit in the layers that are still in the model.
        kinds: kinds of units that may be removed, from `KINDS`.
    """
    # Importance and cost of everything that is left in each layer.
    layer_scores, layer_costs = {}, {}
    for layer in _remaining_layers(masks):
        parts = (scores.heads[layer], scores.neurons[layer], scores.layers[layer])
        layer_scores[layer] = sum(part.sum().item() for part in parts)
        # Each layer counts at the price of the first one. If the last layer, which is cheaper, were removed, the layer
        # before it would become the last one.
        layer_costs[layer] = costs.layers + costs.heads[0] * int(masks.heads[layer].sum())
        layer_costs[layer] += costs.neurons[0] * int(masks.neurons[layer].sum())
    order: list[Unit] = []

    def remove_layers(below: float) -> None:
        """Remove layers, lowest ratio of importance to cost first, while that ratio is below a limit."""
        while "layers" in kinds and len(layer_scores) > MINIMUM_UNITS["layers"]:
            layer = min(layer_scores, key=lambda layer: layer_scores[layer] / layer_costs[layer])
            if layer_scores[layer] / layer_costs[layer] >= below:
                return
            order.append(("layers", layer, 0))
            del layer_scores[layer], layer_costs[layer]

    for ratio, score, unit in _rank(scores, masks, costs, kinds):
        remove_layers(below=ratio)
        kind, layer, _ = unit
        if kind != "hidden":
            if layer not in layer_scores:
                continue
            layer_scores[layer] -= score
            layer_costs[layer] -= getattr(costs, kind)[0]
        order.append(unit)
    remove_layers(below=float("inf"))
    return order


def _remaining_layers(masks: Units) -> list[int]:
    return [layer for layer, stays in enumerate(masks.layers.tolist()) if stays]


def _rank(scores: Units, masks: Units, costs: Costs, kinds: Sequence[str]) -> list[tuple[float, float, Unit]]:
    """Return importance per cost, importance, and unit of all heads, neurons and dimensions, in ascending order.

    Whole layers are not among them. Arguments are those of `removal_order`.
    """
    ranked: list[tuple[float, float, Unit]] = []
    for kind in ("heads", "neurons"):
        if kind in kinds:
            for layer, cost in zip(_remaining_layers(masks), getattr(costs, kind), strict=True):
                pairs = _removable(getattr(scores, kind)[layer], getattr(masks, kind)[layer], MINIMUM_UNITS[kind])
                ranked += [(score / cost, score, (kind, layer, index)) for score, index in pairs]
    if "hidden" in kinds:
        pairs = _removable(scores.hidden, masks.hidden, MINIMUM_UNITS["hidden"])
        ranked += [(score / costs.hidden, score, ("hidden", 0, index)) for score, index in pairs]
    return sorted(ranked)


def remove_units(masks: Units, units: Sequence[Unit]) -> Units:
    """Return a copy of the masks without these units."""
    masks = masks.map(torch.clone)
    for kind, layer, index in units:
        if kind == "layers":
            masks.layers[layer] = False
        elif kind == "hidden":
            masks.hidden[index] = False
        else:
            getattr(masks, kind)[layer][index] = False
    return masks


def prune_to_budget(within_budget: Callable[[Units], bool], masks: Units, order: Sequence[Unit]) -> Units:
    """Return masks without the first units of the ranking, as few as the budget allows.

    Args:
        within_budget: whether the model that these masks leave is within the budget. Once it returns `True`, it must
            return `True` for all further units of the order, because the number of units is found by bisection.
        masks: units that are still in the model.
        order: the order of removal, from `removal_order`.
    """
    counts = range(len(order))
    count = bisect_left(counts, True, key=lambda count: within_budget(remove_units(masks, order[:count])))
    return remove_units(masks, order[:count])


def _removable(scores: torch.Tensor, mask: torch.Tensor, minimum: int) -> list[tuple[float, int]]:
    """Return score and index of the units that are still in the model, except the `minimum` best."""
    pairs = sorted((score, index) for index, score in enumerate(scores.tolist()) if mask[index])
    return pairs[: max(len(pairs) - minimum, 0)]
