"""bitsandbytes: the encoder's linear layers in 8 or 4 bits, for memory rather than speed; transformers loads it."""

import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..adapters import head_modules, refuse_adapters
from ..errors import InputError
from ..model_loading import refuse_quantized


SCHEMES = ("int8", "nf4", "fp4")


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    weights: str = "int8",
    calibration: Callable[[], Iterable[dict[str, Tensor]]] | None = None,
) -> dict[str, Any]:
    """Writes a folder that `AutoModelForSequenceClassification.from_pretrained` loads as it is.

    Embeddings, norms and the head stay floats.

    Args:
        model: a float model; it stays as it is.
        tokenizer: its tokenizer.
        folder: an empty folder.
        weights: one of `SCHEMES`.
        calibration: not used, as weights alone are quantized.

    Returns:
        what the record is to say.

    Raises:
        InputError: for a model that is quantized already, adapters that are not merged, or an unknown scheme.
    """
    # Saved before it first runs: bitsandbytes repacks 4-bit weights then, and saves the scales wrong (see TKD's
    # from_pretrained, which prevents it; other models are at risk).
    quantized_copy(model, weights).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"weights": weights}


def quantized_copy(model: PreTrainedModel, weights: str = "int8", dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A copy of a model with the linear layers of its encoder in 8 or 4 bits, as transformers makes it when it loads.

    Args:
        model: a float model.
        weights: one of `SCHEMES`.
        dtype: of what stays floats; by default the model's own.

    Raises:
        InputError: for a model that is quantized already, or an unknown scheme.
    """
    refuse_quantized(model, "quantize")
    refuse_adapters(model)
    if weights not in SCHEMES:
        raise InputError(f"bitsandbytes has no weights={weights!r}; choose among {', '.join(SCHEMES)}")
    silence_cast_warning()
    bits = {"load_in_8bit": True} if weights == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": weights}
    config = BitsAndBytesConfig(**bits, llm_int8_skip_modules=head_modules(model))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        copy = type(model).from_pretrained(folder, quantization_config=config, dtype=dtype or model.dtype)
    copy.name_or_path = model.name_or_path
    return copy


def silence_cast_warning() -> None:
    """In 8 bits, bitsandbytes warns at every layer of every batch that activations are rounded through float16."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
