"""LoRA: small matrices trained beside the frozen linear layers of a model (Hu et al. 2021, arXiv 2106.09685).

The one place that knows PEFT, which is loaded when it is first needed.
"""

import logging
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils.peft_utils import find_adapter_config_file

from .errors import InputError, first_line
from .untrusted import NO_CODE, NO_PICKLES, check_weight_files


if TYPE_CHECKING:
    from peft import PeftModel

    from .sampling import BaseTrainer


logger = logging.getLogger(__name__)

# Adapters start at nothing and are few: they take a rate some times that of all weights. 5e-4 is what Hu et al. (2021,
# table 9) used for most of GLUE, and five times our default for all weights.
LORA_LEARNING_RATE = 5e-4

# the projections that make queries, keys and values, as bert-like models and their cousins call them
ATTENTION_INPUTS = {
    *("query", "key", "value", "q_lin", "k_lin", "v_lin", "query_proj", "key_proj", "value_proj"),
    *("q_proj", "k_proj", "v_proj", "in_proj", "qkv_proj", "Wqkv"),
}

MODEL_CLASSES = {"SEQ_CLS": AutoModelForSequenceClassification, "TOKEN_CLS": AutoModelForTokenClassification}


@dataclass(frozen=True)
class LoraArguments:
    """How a model is trained as LoRA adapters on its frozen weights. What follows the encoder is trained in full.

    Args:
        rank: width of the adapters. They are scaled by 2 (`lora_alpha` is twice the rank).
        targets: `"linear"`, every linear layer of the encoder's blocks, as QLoRA found to be needed to match full
            fine-tuning (arXiv 2305.14314), or `"attention"`, those that make queries, keys and values.
        load_in_8bit, load_in_4bit: freeze the base in 8 bits, or as QLoRA does in 4 (nf4), by bitsandbytes. The head
            and the adapters stay floats.
        adapter_only: keep the adapter as it is, for a base that several tasks share, instead of merging it.

    Raises:
        InputError: for a rank below 1, other targets, or a base both in 8 and in 4 bits.

    Example:

    ```python
    >>> from tkd_hf.adapters import LoraArguments
    >>> LoraArguments(rank=4)
    LoraArguments(rank=4, targets='linear', load_in_8bit=False, load_in_4bit=False, adapter_only=False)

    ```
    """

    rank: int = 8
    targets: str = "linear"
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    adapter_only: bool = False

    def __post_init__(self):
        if self.rank < 1:
            raise InputError(f"LoRA of rank {self.rank} has nothing to train; the rank is at least 1, usually 4 to 64")
        if self.targets not in ("linear", "attention"):
            raise InputError(f"LoRA targets {self.targets!r} are unknown; there are linear and attention")
        if self.load_in_8bit and self.load_in_4bit:
            raise InputError("load_in_8bit and load_in_4bit are both set; the base is frozen in 8 bits or in 4")

    @property
    def base_weights(self) -> str | None:
        """What bitsandbytes makes of the base's weights; `None` if they stay floats."""
        return "int8" if self.load_in_8bit else "nf4" if self.load_in_4bit else None


def add_adapters(model: PreTrainedModel, lora: LoraArguments) -> "PeftModel":
    """Freezes a model and puts adapters into it; in 8 or 4 bits, into a copy of it.

    Args:
        model: a bert-like classifier; with a base in floats its modules are replaced in place, as PEFT does.
        lora: which adapters.

    Raises:
        InputError: if the model has no linear layers where they are looked for.
    """
    from peft import LoraConfig, get_peft_model

    from .quantization.bitsandbytes import quantized_copy

    base = quantized_copy(model, lora.base_weights, dtype=torch.float32) if lora.base_weights else model
    config = LoraConfig(
        task_type=_task_type(model),
        r=lora.rank,
        lora_alpha=2 * lora.rank,
        target_modules=linear_modules(model, lora.targets),
        modules_to_save=head_modules(model),
        revision=getattr(model.config, "_commit_hash", None),
    )
    with _peft_warnings():
        return get_peft_model(base, config)


def linear_modules(model: PreTrainedModel, targets: str) -> list[str]:
    """The linear layers of the encoder's blocks, named within a block, such as `attention.query`.

    Raises:
        InputError: if there are none.
    """
    found = {
        re.split(r"\.\d+\.", name)[-1]
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"\.\d+\.", name)
    }
    if targets == "attention":
        found = {name for name in found if name.rpartition(".")[2] in ATTENTION_INPUTS}
    if not found:
        raise InputError(
            f"LoRA finds no {targets} layers in a model of type {model.config.model_type!r}; it needs blocks of linear "
            "layers, as bert, roberta, distilbert, electra and tkd have; train such a model in full, without LoRA"
        )
    return sorted(found)


def head_modules(model: PreTrainedModel) -> list[str]:
    """What follows the encoder, the pooler included: too small to save on, and often new."""
    encoder = model.base_model_prefix
    pooler = [f"{encoder}.pooler"] if getattr(model.base_model, "pooler", None) is not None else []
    return pooler + [
        name for name, module in model.named_children() if name != encoder and any(True for _ in module.parameters())
    ]


def finish_adapters(trainer: "BaseTrainer", base: PreTrainedModel, lora: LoraArguments) -> None:
    """After training: the trainer's model becomes the merged, ordinary one, unless the adapter alone is to be kept.

    Where the base has a name, the adapter is also kept as it is, in the folder `adapter`.

    Args:
        trainer: has trained what `add_adapters` made of `base`.
        base: the model in floats. An adapter trained on 8 or 4 bits is merged into these weights, not the rounded ones.
        lora: as given to `add_adapters`.
    """
    trained, folder = trainer.accelerator.unwrap_model(trainer.model), Path(trainer.args.output_dir)
    if lora.adapter_only:
        if trainer.args.should_save:
            base.config.save_pretrained(folder)  # the labels, which neither the adapter nor its base's folder knows
        return
    if base.name_or_path and trainer.args.should_save:
        with _peft_warnings():
            trained.save_pretrained(folder / "adapter")
    if lora.base_weights:
        bits = lora.base_weights
        logger.info("merging into the float weights of the base: answers differ a little from those on %s", bits)
        trained = _transplant(trained, base)
    trainer.replace_model(trained.merge_and_unload())


def merge_adapter(adapter: str | Path, output_dir: str | Path, base: str | None = None) -> PreTrainedModel:
    """Merges an adapter with the float weights of the base that it names, and saves an ordinary model.

    Args:
        adapter: folder of an adapter, with the tokenizer and the labels (`config.json`) that training left there.
        output_dir: folder for the model; it must be new or empty.
        base: where the base is now, if it has moved since.

    Raises:
        InputError: if there is no adapter or no base, or if the output folder holds files.
    """
    from peft import PeftConfig, PeftModel

    adapter, output_dir = Path(adapter), Path(output_dir)
    if not (adapter / "adapter_config.json").is_file():
        raise InputError(f"{adapter} holds no adapter (no adapter_config.json)")
    if any(output_dir.glob("*")):
        raise InputError(f"{output_dir} already holds files; name a new folder for the merged model")
    check_weight_files(adapter)
    made = PeftConfig.from_pretrained(adapter)
    name, revision = (base, None) if base else (made.base_model_name_or_path, made.revision)
    check_weight_files(name)
    config = AutoConfig.from_pretrained(adapter, **NO_CODE) if (adapter / "config.json").exists() else None
    auto_class = MODEL_CLASSES.get(made.task_type, AutoModelForSequenceClassification)
    try:
        model = auto_class.from_pretrained(
            name, revision=revision, config=config, ignore_mismatched_sizes=True, **NO_PICKLES
        )
    except OSError as error:
        raise InputError(
            f"{name!r}, the base of {adapter}, cannot be loaded ({first_line(error)}); give where it is now as base=…"
        ) from error
    with _peft_warnings():
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(output_dir)
    AutoTokenizer.from_pretrained(adapter, **NO_CODE).save_pretrained(output_dir)
    return merged.eval()


def refuse_adapter(model: str, revision: str | None = None) -> None:
    """Transformers would load an adapter's base, with the adapter left out or half in it, as if it were the model.

    Raises:
        InputError: if a folder or Hub id holds an adapter; the message names its base and how to merge the two.
    """
    if find_adapter_config_file(model, revision=revision) is None:
        return
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(model, revision=revision).base_model_name_or_path
    raise InputError(
        f"{model!r} holds an adapter of {base!r}, not a model; merge the two first: {merge_command(model, 'merged')}"
    )


def refuse_adapters(model: PreTrainedModel) -> None:
    """Raises an `InputError` for a loaded model with adapters in it."""
    if getattr(model, "peft_config", None):
        name = model.config.name_or_path or type(model).__name__
        raise InputError(f"{name!r} carries an adapter that is not merged; merge the two first (merge_and_unload)")


def merge_command(adapter: str | Path, output_dir: str | Path) -> str:
    """What to type to merge an adapter with its base."""
    arguments = f"{str(adapter)!r}, {str(output_dir)!r}"
    return f'python -c "from tkd_hf.adapters import merge_adapter; merge_adapter({arguments})"'


def _task_type(model: PreTrainedModel) -> str | None:
    kinds = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
    return next((kind for suffix, kind in kinds.items() if type(model).__name__.endswith(suffix)), None)


def _transplant(trained: "PeftModel", base: PreTrainedModel) -> "PeftModel":
    """The same adapter on another base."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    state = get_peft_model_state_dict(trained, save_embedding_layers=False)
    with _peft_warnings():
        model = get_peft_model(base, trained.peft_config["default"])
    set_peft_model_state_dict(model, state)
    return model


@contextmanager
def _peft_warnings():
    """Peft 0.21 asks transformers under a name that is on its way out, which is no news to the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
