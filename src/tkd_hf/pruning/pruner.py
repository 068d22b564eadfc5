"""Structured pruning of one model: score the units, mask the least important, and build the smaller model."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from ..core.errors import InputError
from ..models.modeling_tkd import TKDPreTrainedModel
from .importance import IMPORTANCE, Batch, LossFunction
from .ranking import Costs, prune_to_budget, removal_order
from .structured import Gates, compact
from .targets import Target
from .units import Units


logger = logging.getLogger(__name__)


class StructuredPruner:
    """Prune a model towards a target: mask units while it trains, then build a model without them.

    Use it directly to prune a model at once, as in the example. To let the model recover by training, give the pruner
    to a `PruningCallback`. Each call of `prune` scores the remaining units again, so several prunings with training in
    between can choose better than a single one.

    While the pruner is in use, the model carries forward hooks and keeps its size, so nothing is saved yet: `compact`
    returns the small model without hooks, which is saved, loaded and exported like any other. The importance
    `"taylor"` needs a loss that depends on the model's errors; a student that equals its teacher has no gradient in the
    distillation loss.

    Args:
        target: how much to remove of which model, a `ParameterTarget` or a `SpeedTarget`.
        batches: calibration data on the model's device, for example from `calibration_data`.
        loss: runs the model on a batch and returns the mean loss over its examples.
        importance: how to score units: `"taylor"` (by the change of the loss), `"magnitude"` (by the weights) or
            `"activation"` (by the output); see `tkd_hf.pruning.importance`.

    Raises:
        InputError: if `importance` is unknown.

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
            raise InputError(f"unknown importance {importance!r}; choose among {', '.join(IMPORTANCE)}")
        self.model, self.target = target.model, target
        self.gates = Gates(target.model)
        self._importance, self._batches, self._loss = IMPORTANCE[importance], batches, loss
        self._budget: float | None = None

    @property
    def masks(self) -> Units:
        """The units that are still in the model."""
        return self.gates.masks

    def prune(self, share: float = 1.0) -> None:
        """Mask the least important of the remaining units until this share of the way to the target is done.

        Args:
            share: from 0 (the unpruned model) to 1 (the target).
        """
        masks, config = self.masks, self.model.config
        price, kinds = self.target.price, self.target.kinds
        scores = self._importance(self.gates, self._batches, self._loss, "hidden" in kinds)
        order = removal_order(scores, masks, Costs.from_price(masks.pruned_config(config), price), kinds)
        budget = self.target.budget(masks, order) if self._budget is None else self._budget
        self._budget = budget
        limit = budget if share >= 1 else price(config) + share * (budget - price(config))
        self.gates.set(prune_to_budget(lambda masks: price(masks.pruned_config(config)) <= limit, masks, order))
        logger.info("pruned to %s", describe_masks(self.masks))

    def compact(self) -> TKDPreTrainedModel:
        """Return the model without the masked units: smaller, with the same logits, and without hooks."""
        return compact(self.model, self.masks)

    def state_dict(self) -> dict[str, Any]:
        """Return masks, budget and the target's measurements as values that JSON can hold."""
        masks = self.masks.map(lambda mask: mask.nonzero().flatten().tolist())
        return {"kept": vars(masks), "budget": self._budget, "target": self.target.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of another pruner of the same model."""

        def to_mask(mask: torch.Tensor, indices: list[int]) -> torch.Tensor:
            return torch.zeros_like(mask).index_fill(0, torch.tensor(indices, dtype=torch.long), True)

        self.gates.set(Units.full(self.model.config, True).map(to_mask, Units(**state["kept"])))
        self._budget = state["budget"]
        self.target.load_state_dict(state["target"])


def describe_masks(masks: Units) -> str:
    """Return one line with the heads and neurons that the masks leave per layer, and the hidden width."""
    layers = [
        f"{int(heads.sum())}/{int(neurons.sum())}" if stays else "–"
        for heads, neurons, stays in zip(masks.heads, masks.neurons, masks.layers.tolist(), strict=True)
    ]
    return f"heads/neurons per layer {' '.join(layers)}, hidden width {int(masks.hidden.sum())}"
