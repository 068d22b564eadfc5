"""The ranking of units by importance per cost, the removal of whole layers, and the units that always stay."""

import pytest
import torch

from tkd_hf import TKDConfig, TKDForSequenceClassification
from tkd_hf.pruning import ParameterTarget, Units
from tkd_hf.pruning.ranking import Costs, prune_to_budget, removal_order, remove_units
from tkd_hf.pruning.units import MINIMUM_UNITS


CONFIG = TKDConfig(
    vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=8, head_dim=4
)


def scores(heads, neurons, hidden=None) -> Units:
    hidden = torch.arange(16.0) if hidden is None else hidden
    return Units([torch.tensor(row) for row in heads], [torch.tensor(row) for row in neurons], torch.zeros(2), hidden)


def test_units_are_removed_in_order_of_importance_per_cost():
    """A head costs as much as four neurons here. One head and four neurons per layer stay, and all layers."""
    heads = [[4.0, 40.0, 1.0, 9.0], [80.0, 2.0, 3.0, 4.0]]
    neurons = [[2.0, 3.0] + [50.0] * 6, [0.3] * 2 + [60.0] * 6]
    costs = Costs([4.0] * 2, [1.0] * 2, 0.0, 1.0)
    order = removal_order(scores(heads, neurons), Units.full(CONFIG, True), costs, ("heads", "neurons"))
    assert order[:5] == [("heads", 0, 2), ("neurons", 1, 0), ("neurons", 1, 1), ("heads", 1, 1), ("heads", 1, 2)]
    masks = remove_units(Units.full(CONFIG, True), order)
    assert [mask.sum().item() for mask in masks.heads] == [MINIMUM_UNITS["heads"]] * 2
    assert [mask.sum().item() for mask in masks.neurons] == [MINIMUM_UNITS["neurons"]] * 2
    assert (masks.heads[0][1], masks.heads[1][0]) == (True, True)
    assert masks.hidden.all()
    assert masks.layers.all()


def test_layer_is_removed_if_its_remaining_units_do_not_justify_its_cost():
    """The layer itself costs 10. After its worthless units are removed, one head and four good neurons are left."""
    importance = scores([[0.0] * 4, [9.0] * 4], [[0.0] * 4 + [2.0] * 4, [9.0] * 8])
    order = removal_order(
        importance, Units.full(CONFIG, True), Costs([1.0] * 2, [1.0] * 2, 10.0, 1.0), ("heads", "neurons", "layers")
    )
    worthless_units, index = 3 + 4, order.index(("layers", 0, 0))
    assert index == worthless_units  # 8 / (1 + 4 + 10) is less than 9, the ratio of the next unit
    assert all(kind != "layers" and layer == 1 for kind, layer, _ in order[index + 1 :])
    assert remove_units(Units.full(CONFIG, True), order).layers.tolist() == [False, True]


def test_masked_units_are_not_ranked():
    masks = Units.full(CONFIG, True)
    masks.layers[0] = masks.heads[1][0] = masks.hidden[3] = False
    order = removal_order(
        Units.full(CONFIG, 1.0), masks, Costs([1], [1], 1, 1), ("heads", "neurons", "layers", "hidden")
    )
    assert not {("heads", 1, 0), ("hidden", 0, 3), ("layers", 1, 0)} & set(order)
    assert all(layer == 1 for kind, layer, _ in order if kind in ("heads", "neurons"))
    assert sum(kind == "hidden" for kind, _, _ in order) == 15 - MINIMUM_UNITS["hidden"]


def test_costs_of_a_parameter_target_equal_parameters_counted_by_hand():
    target = ParameterTarget(TKDForSequenceClassification(CONFIG), 0.9)
    costs = Costs.from_price(CONFIG, target.price)
    assert costs.heads == [4 * 16 * 4 + 3 * 4] * 2
    assert costs.neurons == [2 * 16 + 1] * 2
    assert costs.layers == 2 * 16 + 4 * 16  # two output biases and two norms
    tables = 20 + 512 + 2 + 2  # words, positions, token types, norm
    layers = 2 * (4 * 16 + 1 + 2 * 8 + 1 + 4)
    head = 2 * 16 + 1 + 1 + 2  # the dense layer is square, and there are two labels
    assert costs.hidden == tables + layers + head


def test_no_more_units_are_removed_than_the_budget_requires():
    order = removal_order(
        Units.full(CONFIG, 1.0), Units.full(CONFIG, True), Costs([1] * 2, [1] * 2, 1, 1), ("neurons",)
    )
    left = prune_to_budget(
        lambda masks: sum(mask.sum() for mask in masks.neurons) <= 13, Units.full(CONFIG, True), order
    )
    assert sum(mask.sum() for mask in left.neurons) == 13


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_pruned_model_meets_the_target_within_one_unit(share):
    model = TKDForSequenceClassification(CONFIG)
    kinds = ("heads", "neurons", "hidden")
    target = ParameterTarget(model, share, kinds=kinds)
    torch.manual_seed(0)
    masks = Units.full(CONFIG, True)
    importance = Units.full(CONFIG, 1.0).map(torch.rand_like)
    costs = Costs.from_price(CONFIG, target.price)
    order = removal_order(importance, masks, costs, kinds)
    left = prune_to_budget(
        lambda masks: target.price(masks.pruned_config(CONFIG)) <= target.budget(masks, order), masks, order
    )
    limit, parameters = share * model.num_parameters(), target.price(left.pruned_config(CONFIG))
    assert limit - max(*costs.heads, *costs.neurons, costs.hidden) < parameters <= limit
