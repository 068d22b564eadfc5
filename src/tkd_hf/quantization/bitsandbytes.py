"""bitsandbytes: the encoder's linear layers in 8 or 4 bits, in a folder that transformers loads by itself.

Choose this backend to save memory, above all on a GPU, or to train LoRA adapters on a quantized model (QLoRA). It does
not make a model faster, and on a CPU it is usually slower than float32. Embeddings stay floats, so a small student
shrinks little.

`int8` is LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339). `nf4` is the 4-bit NormalFloat of QLoRA (Dettmers et al.
2023, arXiv 2305.14314), whose 16 values fit normally distributed weights; `fp4` is a 4-bit floating-point
format, which loses more in the experiments of that paper.
"""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.backends import Backend, Calibration
from ..models.quantized import quantized_copy, silence_cast_warning


class BitsAndBytes(Backend):
    """A folder that `AutoModelForSequenceClassification.from_pretrained` loads by itself."""

    name = "bitsandbytes"
    schemes = {
        "int8": "Linear layers in 8 bits (LLM.int8()).",
        "nf4": "Linear layers in 4 bits, NormalFloat: values that fit normally distributed weights.",
        "fp4": "Linear layers in 4 bits, floating point.",
    }
    packages = ("bitsandbytes",)  # a dependency of tkd-hf itself
    loaded_by_transformers = True

    def quantize(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        *,
        weights: str = "int8",
        calibration: Calibration | None = None,
    ) -> dict[str, Any]:
        """Write a quantized model; embeddings, norms and the head stay floats.

        The arguments and the result are those of `Backend.quantize`. Only weights are quantized, so no examples are
        needed.

        Raises:
            InputError: if the model is already quantized, has adapters that are not merged, or the scheme is unknown.
        """
        # Save before the first forward pass. In that pass, bitsandbytes may repack 4-bit weights, and then it saves
        # their scales in the wrong order. `from_pretrained` of TKD models prevents repacking; other models need this
        # order.
        quantized_copy(model, weights).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {"weights": weights}

    def load(
        self, auto_class: Any, model: str, revision: str | None, **options: Any
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        silence_cast_warning()
        return super().load(auto_class, model, revision, **options)

    def weight_type(self, weight: Tensor) -> str:
        """Return the data type of a weight; in 4 bits its name (nf4, fp4), because a uint8 holds two of them."""
        return getattr(weight, "quant_type", None) or super().weight_type(weight)
