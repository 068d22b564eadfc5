"""Structured pruning of one model, from importance to masks to what is left; called once, or again and again."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import InputError
from ..modeling_tkd import TKDPreTrainedModel
from .importance import IMPORTANCE, Batch, LossFunction
from .ranking import Costs, prune_to_budget, removal_order
from .structured import Gates, compact
from .targets import Target
from .units import Units


logger = logging.getLogger(__name__)


class StructuredPruner:
    """Prunes a model towards a target: by masks while it trains, and out of its weights in the end.

    Args:
        target: what is wanted of which model. The model gets hooks, and `compact` returns one without.
        batches: calibration data, on the model's device.
        loss: of a batch, a mean over its examples; it runs the model.
        importance: `"taylor"`, `"magnitude"` or `"activation"`; see `tkd_hf.pruning.importance`.

    Raises:
        InputError: for an unknown criterion.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf import TKDConfig, TKDForSequenceClassification
    >>> from tkd_hf.pruning import ParameterTarget, StructuredPruner

    >>> model = TKDForSequenceClassification(TKDConfig(hidden_size=64, num_hidden_layers=4, vocab_size=100))
    >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([1])}
    >>> pruner = StructuredPruner(ParameterTarget(model, 0.3), [batch], lambda batch: model(**batch).loss)
    >>> pruner.prune()
    >>> pruner.compact().num_parameters() <= 0.3 * model.num_parameters()
    True

    ```
    """

    def __init__(self, target: Target, batches: Sequence[Batch], loss: LossFunction, importance: str = "taylor"):
        if importance not in IMPORTANCE:
            raise InputError(f"unknown importance {importance!r}; there are {', '.join(IMPORTANCE)}")
        self.model, self.target = target.model, target
        self.gates = Gates(target.model)
        self._importance, self._batches, self._loss = IMPORTANCE[importance], batches, loss
        self._budget = None

    @property
    def masks(self) -> Units:
        """What is still there."""
        return self.gates.masks

    def prune(self, share: float = 1.0) -> None:
        """Ranks what is still there, and masks more of it until this share of the way to the target is done."""
        masks, config = self.masks, self.model.config
        price, kinds = self.target.price, self.target.kinds
        scores = self._importance(self.gates, self._batches, self._loss, "hidden" in kinds)
        order = removal_order(scores, masks, Costs.from_price(masks.pruned_config(config), price), kinds)
        if self._budget is None:
            self._budget = self.target.budget(masks, order)
        allowed = self._budget if share >= 1 else price(config) + share * (self._budget - price(config))
        self.gates.set(prune_to_budget(lambda left: price(left.pruned_config(config)) <= allowed, masks, order))
        logger.info("pruned to %s", describe_masks(self.masks))

    def compact(self) -> TKDPreTrainedModel:
        """The model without what is masked: smaller, with the same logits, and no hooks."""
        return compact(self.model, self.masks)

    def state_dict(self) -> dict[str, Any]:
        """Masks and budget, for JSON."""
        masks = self.masks.map(lambda mask: mask.nonzero().flatten().tolist())
        return {"kept": vars(masks), "budget": self._budget, "target": self.target.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""

        def filled(mask: torch.Tensor, kept: list[int]) -> torch.Tensor:
            return torch.zeros_like(mask).index_fill(0, torch.tensor(kept, dtype=torch.long), True)

        self.gates.set(Units.full(self.model.config, True).map(filled, Units(**state["kept"])))
        self._budget = state["budget"]
        self.target.load_state_dict(state["target"])


def describe_masks(masks: Units) -> str:
    """What masks leave, in one line: heads and neurons of each layer."""
    layers = [
        f"{int(heads.sum())}/{int(neurons.sum())}" if stays else "–"
        for heads, neurons, stays in zip(masks.heads, masks.neurons, masks.layers.tolist(), strict=True)
    ]
    return f"heads/neurons a layer {' '.join(layers)}, hidden width {int(masks.hidden.sum())}"
