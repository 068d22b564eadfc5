"""The order of examples: the same when a run is resumed, and the data set's own in evaluation."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from .callbacks import StopOnNonFiniteGradient
from .hardware import unfused_attention
from .signals import without_adapters


if TYPE_CHECKING:
    from .stages.run_folder import StageRecord


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """Groups by length in an order that depends on seed and epoch alone.

    The sampler of transformers draws from the global generator, whose state a run resumed within an epoch does not
    have: it would repeat some examples and leave out others.

    Args:
        batch_size: examples that are to be of similar length.
        lengths: of all examples, in tokens.
        seed: of the order.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of each epoch."""
        self.generator.manual_seed(self.seed + epoch)


class BaseTrainer(Trainer):
    """A Trainer that may group by length and still resumes exactly and predicts in the data set's order.

    It stops before a step that would spoil the weights (`tkd_hf.callbacks.StopOnNonFiniteGradient`), and writes the
    card that `tkd-hf card` writes.
    """

    run_record: "StageRecord | None" = None  # of the run that it is part of, where a command set that up
    gradient_norm: torch.Tensor | float | None = None  # of the last step, before clipping

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _save_under_own_names(without_adapters(self.model))
        self.add_callback(StopOnNonFiniteGradient(self))

    def train(self, *args, **kwargs):
        """As in `Trainer`, with the attention that is fastest to train."""
        with unfused_attention(without_adapters(self.model), self.args.device, self.args.bf16):
            return super().train(*args, **kwargs)

    def compute_loss(self, *args, **kwargs):
        """As in `Trainer`; keeps the loss for `last_losses`."""
        found = super().compute_loss(*args, **kwargs)
        self._last_losses = {"loss": (found[0] if isinstance(found, tuple) else found).detach()}
        return found

    def last_losses(self) -> dict[str, float]:
        """What the last loss was made of, by name."""
        return {name: value.item() for name, value in self._last_losses.items()}

    def _get_grad_norm(self, *args, **kwargs):
        # kept, since computing it once more would be felt where a student is small
        self.gradient_norm = super()._get_grad_norm(*args, **kwargs)
        return self.gradient_norm

    def _get_train_sampler(self, *args):
        sampler = super()._get_train_sampler(*args)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochLengthGroupedSampler(sampler.batch_size, sampler.lengths, seed)

    def _get_eval_sampler(self, eval_dataset):
        # grouping by length reorders evaluation, too, and prediction i would not be that of example i
        sampler = super()._get_eval_sampler(eval_dataset)
        return None if sampler is None else SequentialSampler(eval_dataset)

    def replace_model(self, model: PreTrainedModel) -> None:
        """Goes on with another model of the same kind: after training adapters, the merged one."""
        self.model = self.model_wrapped = model.to(self.args.device)

    def create_model_card(self, language=None, license=None, tags=None, model_name=None, **known: Any) -> None:
        """Writes the card, and the record that it is from, into the output folder; `push_to_hub` calls it.

        Args:
            language, license, tags: for its metadata.
            model_name: the repository's name, without its owner.
            known: what else `Trainer.create_model_card` takes; the run knows it better.
        """
        if self.is_world_process_zero():
            from .stages.card import write_trainer_card

            write_trainer_card(self, language=language, license=license, tags=tags)


def _save_under_own_names(model: nn.Module) -> None:
    """Has LayerNorm saved as `weight` and `bias` where the file that a model came from had `gamma` and `beta`.

    transformers saves a model under the names that its file had: 5.5 always under the old ones, 5.23 still where the
    file had them, as that of bert-base-uncased. A Trainer that resumes reads checkpoints by the model's names alone: it
    would go on with the LayerNorm of before the training, with no more than a warning. The old names stem from
    https://github.com/huggingface/transformers/issues/29554; no version has ended this yet.
    """
    if conversions := getattr(model, "_weight_conversions", None):
        old = {"LayerNorm.gamma", "LayerNorm.beta"}
        model._weight_conversions = [one for one in conversions if not old & set(one.source_patterns)]
