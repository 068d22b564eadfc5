"""The base trainer: an order of examples that survives resuming, and predictions in the order of the data set.

This is the only module outside `models` that uses private attributes of transformers. Comments name the functions of
https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/trainer.py that call them.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import TrainOutput

from ..cards.generate import write_trainer_card
from ..models.signals import all_tokens_computed, without_adapters
from ..records.run_folder import StageRecord
from .callbacks import CheckpointedCallback, StopOnNonFiniteGradient


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

    It also saves the state of each `CheckpointedCallback` in its checkpoints, stops before a gradient that is not
    finite reaches the weights (`StopOnNonFiniteGradient`), and writes the same model card as `tkd-hf card`.

    Attributes:
        run_record: the record of the run that this training belongs to; `None` unless a command started it.
        gradient_norm: norm of the last step's gradient, before clipping.
    """

    # Trainer declares more kinds of models and of processing classes. A PEFT wrapper is not a PreTrainedModel, but
    # passes on the attributes of the one inside.
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase | None
    _signature_columns: list[str] | None  # type: ignore[assignment]  # Trainer declares it as None
    run_record: StageRecord | None = None
    gradient_norm: torch.Tensor | float | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _save_layer_norms_under_current_names(without_adapters(self.model))
        self.add_callback(StopOnNonFiniteGradient(self))

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `Trainer` does, with the attention implementation that trains fastest on this device."""
        all_tokens = all_tokens_computed(self.model) if self._trains_with_hooks() else nullcontext()
        with all_tokens, _unfused_attention(without_adapters(self.model), self.args.device, self.args.bf16):
            return super().train(*args, **kwargs)

    def _trains_with_hooks(self) -> bool:
        """Return whether the Trainer installs forward hooks on the layers, so that TKD must compute every token.

        NEFTune (arXiv 2310.05914) scales its noise by the shape of the batch. FSDP2 and ZeRO-3 have hooks for any
        shape. Every token is computed with them so that seeded runs can be repeated: dropout draws a value for each
        element that is computed. `TKDModel.forward` itself sees gradient checkpointing.
        """
        has_fsdp2 = getattr(self.accelerator, "is_fsdp2", False)  # accelerate knows FSDP2 since version 1.6
        has_noise = self.args.neftune_noise_alpha is not None
        return has_noise or has_fsdp2 or is_deepspeed_zero3_enabled()

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Compute the loss as `Trainer` does, and keep it for `last_losses`."""
        result = super().compute_loss(*args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        self._last_losses = {"loss": loss.detach()}
        return result

    def last_losses(self) -> dict[str, float]:
        """Return the terms of the last loss, by name."""
        return {name: value.item() for name, value in self._last_losses.items()}

    def batch_loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the loss on a batch, in the precision of training; `inputs` may be on another device."""
        with self.compute_loss_context_manager():
            result = self.compute_loss(model, self._prepare_inputs(inputs))  # as Trainer.prediction_step does
        return result[0] if isinstance(result, tuple) else result

    def checkpointed_callbacks(self) -> list[CheckpointedCallback]:
        """Return the callbacks whose state checkpoints hold."""
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, CheckpointedCallback)]

    def columns_besides_inputs(self) -> list[str]:
        """Return the columns of the data that batches need although the model's `forward` does not take them."""
        return []

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # called by Trainer._save_checkpoint
        if self.args.should_save:
            for callback in self.checkpointed_callbacks():
                callback.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # Trainer._prepare_for_training calls this when it resumes. Callbacks come first: if the checkpoint does not
        # fit, their errors say why and the optimizer's do not.
        if checkpoint is not None:
            for callback in self.checkpointed_callbacks():
                callback.load(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _set_signature_columns_if_needed(self) -> None:
        # Trainer._remove_unused_columns calls this, and drops all columns except _signature_columns
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns = [*(self._signature_columns or []), *self.columns_besides_inputs()]

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> torch.Tensor | float | None:
        # Trainer._run_epoch calls this before each step. The norm is kept for StopOnNonFiniteGradient, because
        # computing it twice would slow down the steps of a small student.
        self.gradient_norm = super()._get_grad_norm(*args, **kwargs)
        return self.gradient_norm

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)  # called by Trainer.get_train_dataloader
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        # several processes draw the batches that one process would draw
        return EpochLengthGroupedSampler(sampler.batch_size * self.args.world_size, sampler.lengths, seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # Trainer.get_eval_dataloader calls this. It groups evaluation by length as well, and then prediction i does not
        # belong to example i.
        sampler = super()._get_eval_sampler(eval_dataset)
        return None if sampler is None else SequentialSampler(eval_dataset)

    def replace_model(self, model: PreTrainedModel) -> None:
        """Continue with another model of the same kind, for example the merged one after training adapters."""
        self.model = self.model_wrapped = model.to(self.args.device)  # type: ignore[arg-type]  # wrapped by transformers

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Write the model card and its record into the output folder. `push_to_hub` calls this.

        Args:
            language: language of the model, for the metadata.
            license: license of the model, for the metadata.
            tags: tags for the metadata.
            args, kwargs: the other arguments of `Trainer.create_model_card`, ignored because the record has them.
        """
        if self.is_world_process_zero():
            write_trainer_card(self, language=language, license=license, tags=tags)


@contextmanager
def _unfused_attention(model: PreTrainedModel, device: torch.device, bf16: bool) -> Iterator[None]:
    """Switch a model from fused attention (sdpa) to separate matrix products while it trains, where these are faster.

    On a CPU in bfloat16, training through the fused kernel (torch 2.13) is several times slower, most of all with short
    texts. In float32, and without gradients, it is not.
    """
    # What `set_attn_implementation` sets can only be read from `PreTrainedConfig._attn_implementation`:
    # https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/configuration_utils.py
    slow = bf16 and device.type == "cpu" and model.config._attn_implementation == "sdpa"
    if slow:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if slow:
            model.set_attn_implementation("sdpa")


def _save_layer_norms_under_current_names(model: Any) -> None:
    """Save LayerNorms as `weight` and `bias`, even if the model's file called them `gamma` and `beta`.

    transformers saves a model under the names that its file had: version 5.5 always uses the old names, 5.23 if the
    file has them, as that of bert-base-uncased does. A Trainer that resumes expects the model's own names. If it
    finds the old ones, it only warns and continues with the LayerNorms from before the training. See
    https://github.com/huggingface/transformers/issues/29554; no release fixes this yet.
    """
    # PreTrainedModel.save_pretrained renames weights as _weight_conversions say (revert_weight_conversion)
    if conversions := getattr(model, "_weight_conversions", None):
        old_names = {"LayerNorm.gamma", "LayerNorm.beta"}
        model._weight_conversions = [
            conversion for conversion in conversions if not old_names & set(conversion.source_patterns)
        ]
