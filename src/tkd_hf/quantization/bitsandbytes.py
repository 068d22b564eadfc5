"""bitsandbytes: the encoder's linear layers in 8 or 4 bits, in a folder that transformers loads by itself.

Choose this backend to save memory, above all on a GPU, or to train LoRA adapters on a quantized model (QLoRA). It does
not make a model faster, and on a CPU it is usually slower than float32. Embeddings stay floats, so a small student
shrinks little.

`int8` is LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339). `nf4` is the 4-bit NormalFloat of QLoRA (Dettmers et al.
2023, arXiv 2305.14314), whose 16 values fit normally distributed weights; `fp4` is a 4-bit floating-point
format, which loses more in the experiments of that paper.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.quantized import BITSANDBYTES_SCHEMES, quantized_copy


SCHEMES = BITSANDBYTES_SCHEMES


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
