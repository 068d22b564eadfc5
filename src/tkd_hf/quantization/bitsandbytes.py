"""bitsandbytes: the encoder's linear layers in 8 or 4 bits, in a folder that transformers loads by itself.

Choose this backend to save memory, above all on a GPU, or to train LoRA adapters on a quantized model (QLoRA). It does
not make a model faster, and on a CPU it is usually slower than float32. Embeddings stay floats, so a small student
shrinks little.

`int8` is LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339). `nf4` is the 4-bit NormalFloat of QLoRA (Dettmers et al.
2023, arXiv 2305.14314), whose 16 values fit normally distributed weights; `fp4` is a 4-bit floating-point
format, which loses more in the experiments of that paper.
"""

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
    """Write a quantized model to a folder that `AutoModelForSequenceClassification.from_pretrained` loads by itself.

    Embeddings, norms and the head stay floats.

    Args:
        model: a float model. It is not changed.
        tokenizer: its tokenizer.
        folder: an empty folder.
        weights: one of `SCHEMES`.
        calibration: not used, because only weights are quantized.

    Returns:
        a description of the weights, for the run record.

    Raises:
        InputError: if the model is already quantized, has adapters that are not merged, or the scheme is unknown.
    """
    # Save before the first forward pass. In that pass, bitsandbytes may repack 4-bit weights, and then it saves their
    # scales in the wrong order. `from_pretrained` of TKD models prevents repacking; other models need this order.
    quantized_copy(model, weights).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"weights": weights}


def quantized_copy(model: PreTrainedModel, weights: str = "int8", dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Return a copy of a model with the encoder's linear layers in 8 or 4 bits, as transformers loads it.

    Args:
        model: a float model. It is not changed.
        weights: one of `SCHEMES`.
        dtype: dtype of the parameters that stay floats; by default that of the model.

    Raises:
        InputError: if the model is already quantized, has adapters that are not merged, or the scheme is unknown.
    """
    refuse_quantized(model, "quantize")
    refuse_adapters(model)
    if weights not in SCHEMES:
        raise InputError(f"bitsandbytes has no scheme weights={weights!r}; choose among {', '.join(SCHEMES)}")
    silence_cast_warning()
    bits = {"load_in_8bit": True} if weights == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": weights}
    config = BitsAndBytesConfig(**bits, llm_int8_skip_modules=head_modules(model))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        copy = type(model).from_pretrained(folder, quantization_config=config, dtype=dtype or model.dtype)
    copy.name_or_path = model.name_or_path
    return copy


def silence_cast_warning() -> None:
    """Silence the warning of 8-bit layers that activations are cast to float16, which appears for every batch."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
