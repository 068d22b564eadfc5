"""The ranking: worth per cost over all layers, a layer when its rest is worth too little, and what must survive."""

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


def test_the_order_is_that_of_worth_per_cost():
    """By hand: a head costs four times a neuron; one head, four neurons of each layer and a layer survive."""
    worth = scores([[4.0, 40.0, 1.0, 9.0], [80.0, 2.0, 3.0, 4.0]], [[2.0, 3.0] + [50.0] * 6, [0.3] * 2 + [60.0] * 6])
    order = removal_order(worth, Units.full(CONFIG, True), Costs([4.0] * 2, [1.0] * 2, 0.0, 1.0), ("heads", "neurons"))
    assert order[:5] == [("heads", 0, 2), ("neurons", 1, 0), ("neurons", 1, 1), ("heads", 1, 1), ("heads", 1, 2)]
    gone = remove_units(Units.full(CONFIG, True), order)
    assert [mask.sum().item() for mask in gone.heads] == [MINIMUM_UNITS["heads"]] * 2
    assert [mask.sum().item() for mask in gone.neurons] == [MINIMUM_UNITS["neurons"]] * 2
    assert (gone.heads[0][1], gone.heads[1][0]) == (True, True)
    assert gone.hidden.all()
    assert gone.layers.all()


def test_a_layer_goes_when_its_rest_is_worth_too_little():
    """Its own cost, 10 here, is spent on what is left in it: five of six good neurons, then none."""
    worth = scores([[0.0] * 4, [9.0] * 4], [[0.0] * 4 + [2.0] * 4, [9.0] * 8])
    order = removal_order(
        worth, Units.full(CONFIG, True), Costs([1.0] * 2, [1.0] * 2, 10.0, 1.0), ("heads", "neurons", "layers")
    )
    worthless, place = 3 + 4, order.index(("layers", 0, 0))
    assert place == worthless  # 8 / (1 + 4 + 10) is less than the 9 of the next unit
    assert all(kind != "layers" and layer == 1 for kind, layer, _ in order[place + 1 :])
    assert remove_units(Units.full(CONFIG, True), order).layers.tolist() == [False, True]


def test_what_is_gone_is_not_ranked_again():
    masks = Units.full(CONFIG, True)
    masks.layers[0] = masks.heads[1][0] = masks.hidden[3] = False
    order = removal_order(
        Units.full(CONFIG, 1.0), masks, Costs([1], [1], 1, 1), ("heads", "neurons", "layers", "hidden")
    )
    assert not {("heads", 1, 0), ("hidden", 0, 3), ("layers", 1, 0)} & set(order)
    assert all(layer == 1 for kind, layer, _ in order if kind in ("heads", "neurons"))
    assert sum(kind == "hidden" for kind, _, _ in order) == 15 - MINIMUM_UNITS["hidden"]


def test_costs_are_those_of_the_parameters():
    """Of attention, feed-forward and the whole model, counted by hand."""
    target = ParameterTarget(TKDForSequenceClassification(CONFIG), 0.9)
    costs = Costs.from_price(CONFIG, target.price)
    assert costs.heads == [4 * 16 * 4 + 3 * 4] * 2
    assert costs.neurons == [2 * 16 + 1] * 2
    assert costs.layers == 2 * 16 + 4 * 16  # two output biases and two norms
    tables = 20 + 512 + 2 + 2  # words, positions, types, norm
    layers = 2 * (4 * 16 + 1 + 2 * 8 + 1 + 4)
    head = 2 * 16 + 1 + 1 + 2  # dense is square; two labels
    assert costs.hidden == tables + layers + head


def test_as_few_go_as_the_budget_allows():
    order = removal_order(
        Units.full(CONFIG, 1.0), Units.full(CONFIG, True), Costs([1] * 2, [1] * 2, 1, 1), ("neurons",)
    )
    left = prune_to_budget(
        lambda masks: sum(mask.sum() for mask in masks.neurons) <= 13, Units.full(CONFIG, True), order
    )
    assert sum(mask.sum() for mask in left.neurons) == 13


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_the_target_is_kept_and_not_overdone(share):
    model = TKDForSequenceClassification(CONFIG)
    kinds = ("heads", "neurons", "hidden")
    target = ParameterTarget(model, share, kinds=kinds)
    torch.manual_seed(0)
    masks = Units.full(CONFIG, True)
    worth = Units.full(CONFIG, 1.0).map(torch.rand_like)
    costs = Costs.from_price(CONFIG, target.price)
    order = removal_order(worth, masks, costs, kinds)
    left = prune_to_budget(
        lambda masks: target.price(masks.pruned_config(CONFIG)) <= target.budget(masks, order), masks, order
    )
    whole, parameters = model.num_parameters(), target.price(left.pruned_config(CONFIG))
    assert share * whole - max(*costs.heads, *costs.neurons, costs.hidden) < parameters <= share * whole
