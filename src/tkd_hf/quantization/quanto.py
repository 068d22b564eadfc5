"""optimum-quanto: the encoder's linear layers with weights in 8 bits.

Choose this backend to save memory on a device that bitsandbytes does not support, such as MPS. It does not make a model
faster on a CPU. Embeddings stay floats, so a small student shrinks little.

The folder has the layout of quanto's own `QuantizedTransformersModel`. `from_pretrained` of transformers cannot load
it; `load` can, and so can every command of tkd-hf.
"""

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, QuantoConfig

from ..core.errors import InputError
from ..core.optional_dependencies import import_optional
from ..models.loading import load_quanto as load
from ..models.quantized import QUANTIZATION_MAP_FILE, head_modules, refuse_adapters, refuse_quantized


__all__ = ["SCHEMES", "load", "quantize"]

SCHEMES = ("int8",)


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    weights: str = "int8",
    calibration: Callable[[], Iterable[dict[str, Tensor]]] | None = None,
) -> dict[str, Any]:
    """Write a quantized model to a folder, for `load` or a subclass of `optimum.quanto.QuantizedTransformersModel`.

    Embeddings, norms and the head stay floats.

    Args:
        model: a float classifier. It is not changed.
        tokenizer: its tokenizer.
        folder: an empty folder.
        weights: one of `SCHEMES`.
        calibration: not used, because only weights are quantized.

    Returns:
        a description of the weights, for the run record.

    Raises:
        InputError: if the model is already quantized, has adapters that are not merged, the scheme is unknown, or
            optimum-quanto is not installed.
    """
    quanto = import_optional("optimum.quanto", "quanto", "quantization by quanto")
    refuse_quantized(model, "quantize")
    refuse_adapters(model)
    if weights not in SCHEMES:
        raise InputError(f"quanto has no scheme weights={weights!r} here; choose among {', '.join(SCHEMES)}")
    head = head_modules(model)
    quantized = copy.deepcopy(model).eval()
    quanto.quantize(quantized, weights=f"q{weights}", exclude=[*head, *(f"{name}.*" for name in head)])
    quanto.freeze(quantized)
    quantized.config.quantization_config = QuantoConfig(weights=weights, modules_to_not_convert=head).to_dict()
    quantized.save_pretrained(folder, save_original_format=False)  # keep the parameter names that `load` expects
    (folder / QUANTIZATION_MAP_FILE).write_text(
        json.dumps(quanto.quantization_map(quantized), indent=2), encoding="utf-8"
    )
    tokenizer.save_pretrained(folder)
    return {"weights": weights}
