"""LoRA: train small matrices next to the frozen linear layers of a model (Hu et al. 2021, arXiv 2106.09685).

PEFT is imported inside functions only, because importing it is slow.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from ..core.errors import InputError
from .architectures import ARCHITECTURES, TKD

# LORA_LEARNING_RATE is documented under this module's name
from .arguments import LORA_LEARNING_RATE as LORA_LEARNING_RATE
from .arguments import LoraArguments
from .checks import check_weight_files
from .loading import commit_of, load_config, load_tokenizer, load_with_head
from .quantized import head_modules, quantized_copy


if TYPE_CHECKING:
    from peft import PeftModel


logger = logging.getLogger(__name__)

# names of the layers that compute queries, keys and values in encoders that are not in the table of architectures
OTHER_ATTENTION_INPUTS = {
    *("query_proj", "key_proj", "value_proj", "q_proj", "k_proj", "v_proj", "in_proj", "qkv_proj", "Wqkv"),
}

# suffix of a class name -> PEFT's name of the task
_TASK_TYPES = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}


def add_adapters(model: PreTrainedModel, lora: LoraArguments) -> "PeftModel":
    """Freeze a model and add adapters to it.

    Args:
        model: a BERT-like classifier. With a float base, PEFT replaces its modules in place; with a base in 8 or 4
            bits, the adapters are added to a quantized copy.
        lora: rank, targets and precision of the base.

    Raises:
        InputError: if the encoder has no linear layers of the kind in `lora.targets`.
    """
    from peft import LoraConfig, get_peft_model

    base = quantized_copy(model, lora.base_weights, dtype=torch.float32) if lora.base_weights else model
    config = LoraConfig(
        task_type=_task_type(model),
        r=lora.rank,
        lora_alpha=2 * lora.rank,
        target_modules=linear_modules(model, lora.targets),
        modules_to_save=head_modules(model),
        revision=commit_of(model),
    )
    with _peft_warnings():
        return get_peft_model(base, config)


def linear_modules(model: PreTrainedModel, targets: str) -> list[str]:
    """Return the names of the encoder's linear layers inside a block, such as `attention.query`.

    Args:
        model: the model.
        targets: `"linear"` for all, `"attention"` for queries, keys and values.

    Raises:
        InputError: if the encoder has no such layers in numbered blocks.
    """
    names = {
        re.split(r"\.\d+\.", name)[-1]
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"\.\d+\.", name)
    }
    if targets == "attention":
        projections = (architecture.projections().values() for architecture in (TKD, *ARCHITECTURES.values()))
        attention = OTHER_ATTENTION_INPUTS | {name.rpartition(".")[2] for name in chain.from_iterable(projections)}
        names = {name for name in names if name.rpartition(".")[2] in attention}
    if not names:
        raise InputError(
            f"LoRA finds no {targets} layers in a model of type {model.config.model_type!r}; it needs blocks of linear "
            f"layers, as {', '.join(ARCHITECTURES)} and tkd have; train this model in full, without LoRA"
        )
    return sorted(names)


class ReplacesModel(Protocol):
    """A trainer whose model can be replaced after training, such as `tkd_hf.training.base_trainer.BaseTrainer`."""

    accelerator: Any
    args: Any
    model: Any

    def replace_model(self, model: PreTrainedModel) -> None:
        """Continue with another model of the same kind."""


def finish_adapters(trainer: ReplacesModel, base: PreTrainedModel, lora: LoraArguments) -> None:
    """Merge trained adapters, so that the trainer's model is an ordinary one; with `adapter_only`, keep them separate.

    If the base has a name to load it by, the adapter is also saved, in the folder `adapter`.

    Args:
        trainer: the trainer of the model with adapters, after training.
        base: the model in floats that was given to `add_adapters`. Adapters trained on a base in 8 or 4 bits are merged
            into these weights, which differ a little from the rounded ones.
        lora: as given to `add_adapters`.
    """
    trained, folder = trainer.accelerator.unwrap_model(trainer.model), Path(trainer.args.output_dir)
    if lora.adapter_only:
        if trainer.args.should_save:
            base.config.save_pretrained(folder)  # for the labels, which neither adapter nor base folder contains
        return
    if base.name_or_path and trainer.args.should_save:
        with _peft_warnings():
            trained.save_pretrained(folder / "adapter")
    if lora.base_weights:
        logger.info(
            "merging into the float weights of the base; predictions differ a little from those on %s weights",
            lora.base_weights,
        )
        trained = _move_adapter(trained, base)
    trainer.replace_model(trained.merge_and_unload())


def merge_adapter(adapter: str | Path, output_dir: str | Path, base: str | None = None) -> PreTrainedModel:
    """Merge an adapter into the float weights of its base, and save the result as an ordinary model.

    Args:
        adapter: folder of the adapter, with the tokenizer and `config.json` (for the labels) that training saved.
        output_dir: folder for the merged model; it must be new or empty.
        base: folder or Hub id of the base, if it is no longer at the path in the adapter's configuration.

    Returns:
        The merged model.

    Raises:
        InputError: if the adapter or its base cannot be loaded, or if the output folder contains files.
    """
    from peft import PeftConfig, PeftModel

    adapter, output_dir = Path(adapter), Path(output_dir)
    if not (adapter / "adapter_config.json").is_file():
        raise InputError(f"{adapter} holds no adapter (no adapter_config.json)")
    if any(output_dir.glob("*")):
        raise InputError(f"{output_dir} already holds files; name a new folder for the merged model")
    check_weight_files(adapter)
    peft_config = PeftConfig.from_pretrained(str(adapter))
    name, revision = (base, None) if base else (peft_config.base_model_name_or_path, peft_config.revision)
    fields = {"config": load_config(str(adapter), of_adapter=True)} if (adapter / "config.json").exists() else {}
    head = next((head for head, task in _TASK_TYPES.items() if task == peft_config.task_type), None)
    try:
        model = load_with_head(
            f"{name}@{revision}" if revision and not Path(name).exists() else name,
            head or "ForSequenceClassification",
            new_head=True,
            ignore_mismatched_sizes=True,
            **fields,
        )
    except InputError as error:
        raise InputError(
            f"{name!r}, the base of {adapter}, cannot be loaded ({error}); if it has moved, pass base=…"
        ) from error
    with _peft_warnings():
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(output_dir)
    load_tokenizer(str(adapter), of_adapter=True).save_pretrained(output_dir)
    return merged.eval()


def _task_type(model: PreTrainedModel) -> str | None:
    return next((task for suffix, task in _TASK_TYPES.items() if type(model).__name__.endswith(suffix)), None)


def _move_adapter(trained: "PeftModel", base: PreTrainedModel) -> "PeftModel":
    """Put a trained adapter on another base."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    state = get_peft_model_state_dict(trained, save_embedding_layers=False)
    with _peft_warnings():
        model = get_peft_model(base, trained.peft_config["default"])
    set_peft_model_state_dict(model, state)
    return model


@contextmanager
def _peft_warnings() -> Iterator[None]:
    """Silence a deprecation warning that peft 0.21 causes in transformers, and that users cannot act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
