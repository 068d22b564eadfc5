"""Models with quantized weights: recognise them, refuse them, and load copies in 8 or 4 bits with bitsandbytes."""

import logging
import tempfile
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from ..core.errors import InputError


# Arguments of `BitsAndBytesConfig` by name of the scheme.
BITSANDBYTES_SCHEMES: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
}


def quantized_by(model: nn.Module | PretrainedConfig) -> str | None:
    """Return the library that quantized a model's weights, such as `"bitsandbytes"` or `"quanto"`, or `None`.

    Args:
        model: the model, or its configuration.

    Example:

    ```python
    >>> from tkd_hf import TKDConfig
    >>> from tkd_hf.models.quantized import quantized_by
    >>> print(quantized_by(TKDConfig()))
    None
    >>> quantized_by(TKDConfig(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}))
    'bitsandbytes'

    ```
    """
    config = getattr(getattr(model, "config", model), "quantization_config", None)
    if config is None:
        return None
    method = config["quant_method"] if isinstance(config, dict) else config.quant_method
    return str(getattr(method, "value", method))


def refuse_quantized(model: nn.Module | PretrainedConfig, action: str, name: str | None = None) -> None:
    """Raise an error if a model is quantized, before an action that needs float weights.

    Args:
        model: the model, or its configuration.
        action: the action as a verb for the error message, such as `"quantize"`.
        name: the model's name for the error message; by default the one it was loaded by.

    Raises:
        InputError: if the weights are quantized.
    """
    if library := quantized_by(model):
        name = name or getattr(model, "name_or_path", "") or type(model).__name__
        raise InputError(f"{name!r} is quantized already, by {library}; {action} the float model it was made from")


def head_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules after the encoder, including its pooler.

    They are trained in full and never quantized: they are small, and often newly initialised.
    """
    encoder = model.base_model_prefix
    pooler = [f"{encoder}.pooler"] if getattr(model.base_model, "pooler", None) is not None else []
    return pooler + [
        name for name, module in model.named_children() if name != encoder and any(True for _ in module.parameters())
    ]


def refuse_adapters(model: PreTrainedModel) -> None:
    """Raise an error if a loaded model contains adapters.

    Raises:
        InputError: if it does.
    """
    if getattr(model, "peft_config", None):
        name = model.config.name_or_path or type(model).__name__
        raise InputError(f"{name!r} contains an adapter that is not merged; merge the two first (merge_and_unload)")


def quantized_copy(model: PreTrainedModel, weights: str = "int8", dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Return a copy of a model with the encoder's linear layers in 8 or 4 bits, as transformers loads it.

    Args:
        model: a float model. It is not changed.
        weights: one of `BITSANDBYTES_SCHEMES`.
        dtype: dtype of the parameters that stay floats; by default that of the model.

    Raises:
        InputError: if the model is already quantized, has adapters that are not merged, or the scheme is unknown.
    """
    refuse_quantized(model, "quantize")
    refuse_adapters(model)
    if weights not in BITSANDBYTES_SCHEMES:
        raise InputError(
            f"bitsandbytes has no scheme weights={weights!r}; choose among {', '.join(BITSANDBYTES_SCHEMES)}"
        )
    silence_cast_warning()
    config = BitsAndBytesConfig(**BITSANDBYTES_SCHEMES[weights], llm_int8_skip_modules=head_modules(model))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        copy = type(model).from_pretrained(folder, quantization_config=config, dtype=dtype or model.dtype)
    copy.name_or_path = model.name_or_path
    return copy


def silence_cast_warning() -> None:
    """Silence the warning of 8-bit layers that activations are cast to float16, which appears for every batch."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
