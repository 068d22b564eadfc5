"""Pruning element by element: the weakest weights of the encoder's linear layers become zero, and stay in their place.

Zeros alone make nothing faster: on ordinary (dense) hardware a zero is multiplied like any other number, and it takes
as much room in `model.safetensors`. What is gained is the size of a compressed file, and speed only where the runtime
knows the pattern, such as 2:4 on recent GPUs. To make a model smaller and faster anywhere, prune it by structure.
"""

import base64
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import InputError
from .callback import PruningCallback


SCOPES = ("global", "layer")

# Weights by name, and which of their elements stay.
Weights = dict[str, torch.Tensor]
Masks = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sparsity:
    """How many elements are to be zero, and which.

    Args:
        share: of the elements that are to be zero, above 0 and below 1.
        scope: `"global"`: the weakest of all weights together, so that layers that matter more keep more; `"layer"`:
            the same share of every weight matrix.
        pattern: `"N:M"` instead: of M neighbours in the input of a layer the N strongest stay. 2:4 is what GPUs know.

    Raises:
        InputError: for a share or a pattern that makes no sense, or both.

    Example:

    ```python
    >>> from tkd_hf.pruning.unstructured import Sparsity
    >>> Sparsity(0.8).target, Sparsity(pattern="2:4").target
    (0.8, 0.5)

    ```
    """

    share: float | None = None
    scope: str = "global"
    pattern: str | None = None

    def __post_init__(self):
        if (self.share is None) == (self.pattern is None):
            raise InputError(
                f"share={self.share} and pattern={self.pattern} together say not how many weights are to be zero; "
                "give one of the two"
            )
        if self.scope not in SCOPES:
            raise InputError(f"unknown scope {self.scope!r}; there are {', '.join(SCOPES)}")
        if self.share is not None and not 0 < self.share < 1:
            raise InputError(f"share={self.share} of the weights cannot be zero; choose between 0 and 1, such as 0.5")
        if self.pattern is not None:
            kept, group = self.pattern_counts()
            if not 0 < kept < group:
                raise InputError(f"pattern={self.pattern!r} keeps {kept} of {group} weights; give one such as 2:4")

    def pattern_counts(self) -> tuple[int, int]:
        """N and M of the pattern."""
        kept, _, group = self.pattern.partition(":")
        if not (kept.isdecimal() and group.isdecimal()):
            raise InputError(f"pattern={self.pattern!r} is not of the form N:M; give one such as 2:4")
        return int(kept), int(group)

    @property
    def target(self) -> float:
        """The share of elements that are zero in the end."""
        if self.pattern is None:
            return self.share
        kept, group = self.pattern_counts()
        return 1 - kept / group


def prunable_weights(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The matrices of the linear layers inside the encoder's blocks; embeddings, pooler and head are not among them.

    Raises:
        InputError: if there are none in floats.
    """
    blocks = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    linear = (module for block in blocks for module in block.modules() if isinstance(module, nn.Linear))
    inside = {id(module.weight) for module in linear if module.weight.is_floating_point()}
    weights = {name: weight for name, weight in model.named_parameters() if id(weight) in inside}
    if not weights:
        raise InputError(
            f"{type(model).__name__} has no linear layers of floats inside its encoder, so no weights to prune; "
            "prune before quantizing"
        )
    return weights


def magnitude_masks(weights: Weights, sparsity: Sparsity, share: float = 1.0) -> Masks:
    """Which elements stay where the smallest are to go.

    Args:
        weights: matrices by name.
        sparsity: how many are to go in the end.
        share: of the way there. Of a pattern, whole elements of each group.

    Raises:
        InputError: if the pattern does not fit the width of a matrix.
    """
    sizes = {name: weight.detach().abs().float() for name, weight in weights.items()}
    if sparsity.pattern is not None:
        return {name: _strongest_of_groups(name, size, sparsity, share) for name, size in sizes.items()}
    if sparsity.scope == "layer":
        return {name: _strongest(size.flatten(), share * sparsity.share).view_as(size) for name, size in sizes.items()}
    kept = _strongest(torch.cat([size.flatten() for size in sizes.values()]), share * sparsity.share)
    parts = kept.split([size.numel() for size in sizes.values()])
    return {name: part.view_as(size) for (name, size), part in zip(sizes.items(), parts, strict=True)}


def _strongest(sizes: torch.Tensor, pruned: float) -> torch.Tensor:
    """All but this share of a vector, rounded to whole elements; of equal ones the first go."""
    count = round(pruned * len(sizes))
    if count == 0:
        return torch.ones_like(sizes, dtype=torch.bool)
    threshold = sizes.kthvalue(count).values
    kept = sizes >= threshold
    equal = (sizes == threshold).nonzero().flatten()
    kept[equal[: count - int((~kept).sum())]] = False
    return kept


def _strongest_of_groups(name: str, sizes: torch.Tensor, sparsity: Sparsity, share: float) -> torch.Tensor:
    kept, group = sparsity.pattern_counts()
    if sizes.shape[1] % group:
        raise InputError(
            f"{name} has {sizes.shape[1]} inputs, which are no multiple of {group}, as pattern={sparsity.pattern!r} "
            "needs; choose another pattern, or a share"
        )
    gone = int(share * (group - kept) + 1e-9)
    grouped = sizes.unflatten(1, (-1, group))
    weakest = grouped.argsort(dim=-1, stable=True)[..., :gone]
    return torch.ones_like(grouped, dtype=torch.bool).scatter(-1, weakest, False).flatten(1)


class ElementPruner:
    """Keeps the weakest elements of a model's weights at zero while it trains.

    Pruned elements stay pruned; the next pruning adds to them.

    Args:
        model: its weights are changed in place; an encoder with a head or without.
        sparsity: how many elements are to be zero, and which.
        masks: what says which; by magnitude, or `tkd_hf.pruning.nncf.NNCFMasks`.

    Raises:
        InputError: for a model without such weights.

    Example:

    ```python
    >>> from transformers import BertConfig, BertModel
    >>> from tkd_hf.pruning.unstructured import ElementPruner, Sparsity, sparsity_report

    >>> model = BertModel(BertConfig(num_hidden_layers=1))
    >>> ElementPruner(model, Sparsity(0.75)).prune()
    >>> sparsity_report(model).share
    0.75

    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sparsity: Sparsity,
        masks: Callable[[Weights, Sparsity, float], Masks] = magnitude_masks,
    ):
        self.weights = prunable_weights(model)
        self.sparsity = sparsity
        self._choose = masks
        self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}

    def prune(self, share: float = 1.0) -> None:
        """Prunes until this share of the way to the target is done."""
        self.apply_masks()
        chosen = self._choose(self.weights, self.sparsity, share)
        self.masks = {name: mask & chosen[name] for name, mask in self.masks.items()}
        self.apply_masks()

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Sets what is pruned to zero again, after a step of training."""
        for name, weight in self.weights.items():
            weight.masked_fill_(~self.masks[name], 0)

    def state_dict(self) -> dict[str, Any]:
        """The masks, for JSON: eight elements a byte."""
        return {"masks": {name: _packed(mask) for name, mask in self.masks.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with these masks.

        Raises:
            InputError: if they are of another model, or of pruning by structure.
        """
        masks = state.get("masks", {})
        if masks.keys() != self.masks.keys():
            raise InputError(
                f"the checkpoint holds masks of {len(masks)} weights, which are not the {len(self.masks)} that are "
                "pruned here; resume with the model and the kind of pruning that it was made with"
            )
        self.masks = {name: _unpacked(masks[name], mask) for name, mask in self.masks.items()}


class ElementPruningCallback(PruningCallback):
    """Prunes the student's elements on a schedule, and keeps them at zero, while a `DistillationTrainer` trains it.

    Masks and the place in the schedule are in every checkpoint: a run that is killed and resumed ends as it would
    have. The model stays an ordinary one at all times; its zeros are in its weights.

    Args:
        trainer: whose student is pruned.
        pruner: of the trainer's model.
        schedule: when to prune how much.

    Raises:
        InputError: if the trainer is to go back to its best checkpoint, which may be one from before the last pruning.

    Example (`trainer`: a `DistillationTrainer`):

        pruner = ElementPruner(trainer.model, Sparsity(0.8))
        trainer.add_callback(ElementPruningCallback(trainer, pruner, Schedule("cubic")))
        trainer.train()
        print(sparsity_report(trainer.model))
    """

    def on_step_end(self, args, state, control, **kwargs):
        self.pruner.apply_masks()
        super().on_step_end(args, state, control, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        self._warn_if_short(f" of {100 * self.pruner.sparsity.target:.0f} % zeros")


@dataclass(frozen=True)
class SparsityReport:
    """The zeros of a model; `str()` says it in lines, one a weight matrix.

    Attributes:
        layers: the share of zeros of each matrix that can be pruned, by name.
        share: of zeros in all of them together.
        share_of_model: of zeros among all of the model's weights, embeddings and head included.
        megabytes: of the weights as they are saved, zeros and all, in 10⁶ bytes.
        megabytes_compressed: of the same, compressed by zlib (level 6).
    """

    layers: dict[str, float]
    share: float
    share_of_model: float
    megabytes: float
    megabytes_compressed: float

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.share:.1%} zeros in the encoder's linear layers, {self.share_of_model:.1%} of all weights: "
                f"{self.megabytes:.1f} MB, compressed by zlib {self.megabytes_compressed:.1f} MB",
                *(f"  {share:6.1%}  {name}" for name, share in self.layers.items()),
                "zeros make a compressed file smaller; by themselves they make nothing faster",
            ]
        )


def sparsity_report(model: PreTrainedModel) -> SparsityReport:
    """Counts the zeros of a model, and compresses its weights to see what they save."""
    weights = prunable_weights(model)
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    of_all = sum(int((weight == 0).sum()) for weight in model.parameters())
    saved = safetensors.torch.save({name: weight.detach().contiguous() for name, weight in model.named_parameters()})
    return SparsityReport(
        layers={name: count / weights[name].numel() for name, count in zeros.items()},
        share=sum(zeros.values()) / sum(weight.numel() for weight in weights.values()),
        share_of_model=of_all / model.num_parameters(),
        megabytes=model.get_memory_footprint(return_buffers=False) / 1e6,
        megabytes_compressed=len(zlib.compress(saved)) / 1e6,
    )


def _packed(mask: torch.Tensor) -> str:
    return base64.b64encode(np.packbits(mask.cpu().numpy())).decode()


def _unpacked(packed: str, like: torch.Tensor) -> torch.Tensor:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8))
    if not 0 <= len(bits) - like.numel() < 8:
        raise InputError(
            f"the checkpoint holds a mask of some {len(bits)} elements for a weight of {like.numel()}; resume with the "
            "model that it was made with"
        )
    return torch.from_numpy(bits[: like.numel()].astype(bool)).view_as(like).to(like.device)
