"""Unstructured pruning: set single weights of the encoder's linear layers to zero; the shapes stay the same.

Zeros alone make nothing faster. Ordinary (dense) hardware multiplies zeros like any other number, and
`model.safetensors` stores them like any other number. A compressed file gets smaller, and a runtime that knows the
pattern may get faster, such as 2:4 on recent GPUs. To make a model smaller and faster everywhere, prune it by structure
(`StructuredPruner`).
"""

import base64
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

from ..core.errors import InputError
from ..training.trainer import DistillationTrainer
from .arguments import Schedule, Sparsity
from .callback import ScheduledPruning


# Weight matrices by parameter name, and masks of the same shapes whose elements are `True` if the weight stays.
Weights = Mapping[str, torch.Tensor]
Masks = dict[str, torch.Tensor]


def prunable_weights(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the weight matrices of the linear layers in the encoder's blocks, without embeddings, pooler and head.

    Raises:
        InputError: if the encoder has no linear layers of floats, for example because it is quantized.
    """
    blocks = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    linear = (module for block in blocks for module in block.modules() if isinstance(module, nn.Linear))
    inside = {id(module.weight) for module in linear if module.weight.is_floating_point()}
    weights = {name: weight for name, weight in model.named_parameters() if id(weight) in inside}
    if not weights:
        raise InputError(
            f"{type(model).__name__} has no linear layers of floats in its encoder, so it has no weights to prune; if "
            "it is quantized, prune the float model instead"
        )
    return weights


def magnitude_masks(weights: Weights, sparsity: Sparsity, share: float = 1.0) -> Masks:
    """Return masks that drop the weights with the smallest magnitude (Han et al. 2015, arXiv 1506.02626).

    Args:
        weights: matrices by name.
        sparsity: how many weights become zero in the end.
        share: share of the way there, from 0 to 1. With a pattern, each group loses whole weights, rounded down.

    Raises:
        InputError: if the width of a matrix is not a multiple of the pattern's group.
    """
    sizes = {name: weight.detach().abs().float() for name, weight in weights.items()}
    if sparsity.pattern is not None:
        return {name: _largest_per_group(name, size, sparsity, share) for name, size in sizes.items()}
    if sparsity.scope == "layer":
        return {name: _largest(size.flatten(), share * sparsity.target).view_as(size) for name, size in sizes.items()}
    mask = _largest(torch.cat([size.flatten() for size in sizes.values()]), share * sparsity.target)
    parts = mask.split([size.numel() for size in sizes.values()])
    return {name: part.view_as(size) for (name, size), part in zip(sizes.items(), parts, strict=True)}


def _largest(sizes: torch.Tensor, pruned: float) -> torch.Tensor:
    """Return a mask that drops this share of the smallest elements; among equal elements it drops the first."""
    count = round(pruned * len(sizes))
    if count == 0:
        return torch.ones_like(sizes, dtype=torch.bool)
    threshold = sizes.kthvalue(count).values
    mask = sizes >= threshold
    at_threshold = (sizes == threshold).nonzero().flatten()
    mask[at_threshold[: count - int((~mask).sum())]] = False
    return mask


def _largest_per_group(name: str, sizes: torch.Tensor, sparsity: Sparsity, share: float) -> torch.Tensor:
    remaining, group = sparsity.pattern_counts()
    if sizes.shape[1] % group:
        raise InputError(
            f"{name} has {sizes.shape[1]} inputs, but pattern={sparsity.pattern!r} needs a multiple of {group}; choose "
            "another pattern, or a share"
        )
    # 1e-9 keeps a product such as 1.9999999 from being rounded down to 1.
    removed = int(share * (group - remaining) + 1e-9)
    grouped = sizes.unflatten(1, (-1, group))
    smallest = grouped.argsort(dim=-1, stable=True)[..., :removed]
    return torch.ones_like(grouped, dtype=torch.bool).scatter(-1, smallest, False).flatten(1)


class ElementPruner:
    """Set single weights of a model to zero, and keep them at zero while it trains.

    A weight that is pruned stays pruned; the next pruning adds to the zeros. Call `apply_masks` after every optimizer
    step, because the optimizer changes pruned weights as well; `ElementPruningCallback` does so. Zeros alone make the
    model neither smaller nor faster, see the module's docstring.

    Args:
        model: model to change in place, an encoder with or without a head.
        sparsity: how many weights become zero, and which.
        masks: function that chooses the weights: `magnitude_masks`, or a `tkd_hf.pruning.nncf.NNCFMasks`.

    Raises:
        InputError: if the model has no linear layers of floats in its encoder.

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
        self._choose_masks = masks
        self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}

    def prune(self, share: float = 1.0) -> None:
        """Set more weights to zero, until this share of the way to the target is done."""
        self.apply_masks()
        new_masks = self._choose_masks(self.weights, self.sparsity, share)
        self.masks = {name: mask & new_masks[name] for name, mask in self.masks.items()}
        self.apply_masks()

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Set the pruned weights to zero again, after a training step has changed them."""
        for name, weight in self.weights.items():
            weight.masked_fill_(~self.masks[name], 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks as text that JSON can hold, with eight weights per byte."""
        return {"masks": {name: _pack_mask(mask) for name, mask in self.masks.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the masks of another pruner of the same model.

        Raises:
            InputError: if the masks belong to another model, or to structured pruning.
        """
        masks = state.get("masks", {})
        if masks.keys() != self.masks.keys():
            raise InputError(
                f"the checkpoint holds masks of {len(masks)} weights, but this run prunes {len(self.masks)} weights; "
                "resume with the same model and the same kind of pruning"
            )
        self.masks = {name: _unpack_mask(masks[name], mask) for name, mask in self.masks.items()}


class ElementPruningCallback(ScheduledPruning):
    """Set single weights of the student to zero on a schedule during training, and keep them at zero.

    Every checkpoint holds the masks and the position in the schedule, so a run that is killed and resumed ends exactly
    as it would have without the interruption. The student is an ordinary model all the time, with zeros in its weights.

    Args:
        trainer: trainer of the student.
        pruner: prunes the trainer's model.
        schedule: when to prune and how much.

    Raises:
        InputError: if the trainer loads its best checkpoint at the end, because that checkpoint may date from before
            the last pruning.

    Example (`trainer`: a `DistillationTrainer`):

        pruner = ElementPruner(trainer.model, Sparsity(0.8))
        trainer.add_callback(ElementPruningCallback(trainer, pruner, Schedule("cubic")))
        trainer.train()
        print(sparsity_report(trainer.model))
    """

    pruner: ElementPruner

    def __init__(self, trainer: DistillationTrainer, pruner: ElementPruner, schedule: Schedule):
        super().__init__(trainer, pruner, schedule)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.pruner.apply_masks()
        super().on_step_end(args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.warn_if_unfinished(f" of {100 * self.pruner.sparsity.target:.0f} % zeros")


@dataclass(frozen=True)
class SparsityReport:
    """Sparsity of a model; `str()` gives a summary and one line per weight matrix.

    Attributes:
        layers: sparsity of each matrix that can be pruned, by name.
        share: sparsity of these matrices together.
        share_of_model: sparsity of all weights of the model, including embeddings and head.
        megabytes: size of the saved weights, in 10⁶ bytes; zeros take as much space as other numbers.
        megabytes_compressed: size of the saved weights after compression with zlib (level 6).
    """

    layers: dict[str, float]
    share: float
    share_of_model: float
    megabytes: float
    megabytes_compressed: float

    def __str__(self) -> str:
        return "\n".join(
            [
                f"sparsity {self.share:.1%} in the encoder's linear layers, {self.share_of_model:.1%} of all weights; "
                f"{self.megabytes:.1f} MB, or {self.megabytes_compressed:.1f} MB compressed with zlib",
                *(f"  {share:6.1%}  {name}" for name, share in self.layers.items()),
                "zeros make a compressed file smaller; on their own they make nothing faster",
            ]
        )


def sparsity_report(model: PreTrainedModel) -> SparsityReport:
    """Count the zeros of a model, and compress its weights to measure how much space the zeros save.

    Raises:
        InputError: if the model has no linear layers of floats in its encoder.
    """
    weights = prunable_weights(model)
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    zeros_in_model = sum(int((weight == 0).sum()) for weight in model.parameters())
    serialized = safetensors.torch.save(
        {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
    )
    return SparsityReport(
        layers={name: count / weights[name].numel() for name, count in zeros.items()},
        share=sum(zeros.values()) / sum(weight.numel() for weight in weights.values()),
        share_of_model=zeros_in_model / model.num_parameters(),
        megabytes=model.get_memory_footprint(return_buffers=False) / 1e6,
        megabytes_compressed=len(zlib.compress(serialized)) / 1e6,
    )


def _pack_mask(mask: torch.Tensor) -> str:
    return base64.b64encode(np.packbits(mask.cpu().numpy()).tobytes()).decode()


def _unpack_mask(packed: str, like: torch.Tensor) -> torch.Tensor:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8))
    if not 0 <= len(bits) - like.numel() < 8:
        raise InputError(
            f"the checkpoint holds a mask of about {len(bits)} elements for a weight of {like.numel()}; resume with "
            "the same model"
        )
    return torch.from_numpy(bits[: like.numel()].astype(bool)).view_as(like).to(like.device)
