"""The base trainer: an order of examples that survives resuming, and predictions in the order of the data set."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, Trainer
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..cards.generate import write_trainer_card
from ..core.hardware import unfused_attention
from ..models.signals import all_tokens_computed, without_adapters
from ..records.run_folder import StageRecord
from .callbacks import StopOnNonFiniteGradient


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """Sample batches of similar length, in an order that depends on the seed and the epoch only.

    The sampler of transformers draws from torch's global generator. A run that resumes in the middle of an epoch does
    not have the state that the generator had then, so it would repeat some examples and leave out others.

    Args:
        batch_size: number of examples that should have a similar length.
        lengths: length of every example, in tokens.
        seed: seed of the order.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; accelerate calls this at the start of each."""
        self.generator.manual_seed(self.seed + epoch)


class BaseTrainer(Trainer):
    """A `Trainer` that resumes exactly and predicts in the order of the data set, also when it groups by length.

    It also stops before a gradient that is not finite reaches the weights (`StopOnNonFiniteGradient`), and writes the
    same model card as `tkd-hf card`.

    Attributes:
        run_record: the record of the run that this training belongs to; `None` unless a command started it.
        gradient_norm: norm of the last step's gradient, before clipping.
    """

    run_record: "StageRecord | None" = None
    gradient_norm: torch.Tensor | float | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _save_layer_norms_under_current_names(without_adapters(self.model))
        self.add_callback(StopOnNonFiniteGradient(self))

    def train(self, *args, **kwargs):
        """Train as `Trainer` does, with the attention implementation that trains fastest on this device."""
        all_tokens = all_tokens_computed(self.model) if self._trains_with_hooks() else nullcontext()
        with all_tokens, unfused_attention(without_adapters(self.model), self.args.device, self.args.bf16):
            return super().train(*args, **kwargs)

    def _trains_with_hooks(self) -> bool:
        """Return whether the Trainer installs forward hooks on the layers, so that TKD must compute every token.

        NEFTune (arXiv 2310.05914) scales its noise by the shape of the batch. Gradient checkpointing (in newer versions
        of transformers), FSDP2 and ZeRO-3 have hooks for any shape. Every token is computed with them so that seeded
        runs can be repeated: dropout draws a value for each element that is computed.
        """
        has_fsdp2 = getattr(self.accelerator, "is_fsdp2", False)  # accelerate knows FSDP2 since version 1.6
        has_noise = self.args.neftune_noise_alpha is not None
        return has_noise or self.args.gradient_checkpointing or has_fsdp2 or is_deepspeed_zero3_enabled()

    def compute_loss(self, *args, **kwargs):
        """Compute the loss as `Trainer` does, and keep it for `last_losses`."""
        result = super().compute_loss(*args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        self._last_losses = {"loss": loss.detach()}
        return result

    def last_losses(self) -> dict[str, float]:
        """Return the terms of the last loss, by name."""
        return {name: value.item() for name, value in self._last_losses.items()}

    def _get_grad_norm(self, *args, **kwargs):
        # kept for StopOnNonFiniteGradient: computing the norm twice would slow down the steps of a small student
        self.gradient_norm = super()._get_grad_norm(*args, **kwargs)
        return self.gradient_norm

    def _get_train_sampler(self, *args):
        sampler = super()._get_train_sampler(*args)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochLengthGroupedSampler(sampler.batch_size, sampler.lengths, seed)

    def _get_eval_sampler(self, eval_dataset):
        # the Trainer groups evaluation by length as well, and then prediction i does not belong to example i
        sampler = super()._get_eval_sampler(eval_dataset)
        return None if sampler is None else SequentialSampler(eval_dataset)

    def replace_model(self, model: PreTrainedModel) -> None:
        """Continue with another model of the same kind, for example the merged one after training adapters."""
        self.model = self.model_wrapped = model.to(self.args.device)

    def create_model_card(self, language=None, license=None, tags=None, model_name=None, **kwargs: Any) -> None:
        """Write the model card and its record into the output folder. `push_to_hub` calls this.

        Args:
            language: language of the model, for the metadata.
            license: license of the model, for the metadata.
            tags: tags for the metadata.
            model_name: ignored; the record has it.
            kwargs: the other arguments of `Trainer.create_model_card`, ignored for the same reason.
        """
        if self.is_world_process_zero():
            write_trainer_card(self, language=language, license=license, tags=tags)


def _save_layer_norms_under_current_names(model: nn.Module) -> None:
    """Save LayerNorms as `weight` and `bias`, even if the model's file called them `gamma` and `beta`.

    transformers saves a model under the names that its file had: version 5.5 always uses the old names, 5.23 if the
    file has them, as that of bert-base-uncased does. A Trainer that resumes expects the model's own names. If it
    finds the old ones, it only warns and continues with the LayerNorms from before the training. See
    https://github.com/huggingface/transformers/issues/29554; no release fixes this yet.
    """
    if conversions := getattr(model, "_weight_conversions", None):
        old_names = {"LayerNorm.gamma", "LayerNorm.beta"}
        model._weight_conversions = [
            conversion for conversion in conversions if not old_names & set(conversion.source_patterns)
        ]
