"""optimum-quanto: the encoder's linear layers with weights of 8 bits.

Transformers cannot load such a folder; `load` does, and so does whatever loads models in this package. The layout is
that of quanto's own `QuantizedTransformersModel`.
"""

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase, QuantoConfig

from ..adapters import head_modules, refuse_adapters
from ..errors import InputError
from ..model_loading import classifier_class, refuse_quantized
from ..optional_dependencies import import_optional


SCHEMES = ("int8",)
QUANTIZATION_MAP_FILE = "quanto_qmap.json"  # which layers are quantized, and how


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    weights: str = "int8",
    calibration: Callable[[], Iterable[dict[str, Tensor]]] | None = None,
) -> dict[str, Any]:
    """Writes a folder that `load` reads; a subclass of `optimum.quanto.QuantizedTransformersModel` does so, too.

    Embeddings, norms and the head stay floats.

    Args:
        model: a float classifier; it stays as it is.
        tokenizer: its tokenizer.
        folder: an empty folder.
        weights: one of `SCHEMES`.
        calibration: not used, as weights alone are quantized.

    Returns:
        what the record is to say.

    Raises:
        InputError: for a model that is quantized already, adapters that are not merged, an unknown scheme, or where
            optimum-quanto is not installed.
    """
    quanto = import_optional("optimum.quanto", "quanto", "quantization by quanto")
    refuse_quantized(model, "quantize")
    refuse_adapters(model)
    if weights not in SCHEMES:
        raise InputError(f"quanto has no weights={weights!r} here; choose among {', '.join(SCHEMES)}")
    head = head_modules(model)
    made = copy.deepcopy(model).eval()
    quanto.quantize(made, weights=f"q{weights}", exclude=[*head, *(f"{name}.*" for name in head)])
    quanto.freeze(made)
    made.config.quantization_config = QuantoConfig(weights=weights, modules_to_not_convert=head).to_dict()
    made.save_pretrained(folder, save_original_format=False)  # by the names that `load` knows
    (folder / QUANTIZATION_MAP_FILE).write_text(json.dumps(quanto.quantization_map(made), indent=2), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return {"weights": weights}


def load(model: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Loads a classifier that `quantize` wrote.

    Args:
        model: its folder, or the Hub id.
        revision: of the Hub id.

    Raises:
        InputError: where optimum-quanto is not installed, or weights are missing.

    Example (`model`, `tokenizer`, `folder`: a classifier, its tokenizer and an empty folder):

        quantize(model, tokenizer, folder)
        load(folder)(**tokenizer("a text", return_tensors="pt")).logits
    """
    quanto = import_optional("optimum.quanto", "quanto", str(model))
    folder = Path(model) if Path(model).is_dir() else Path(snapshot_download(str(model), revision=revision))
    config = AutoConfig.from_pretrained(folder)
    loaded = classifier_class(config).from_config(config, dtype=config.dtype)
    stored = load_file(folder / "model.safetensors")
    quanto.requantize(loaded, stored, json.loads((folder / QUANTIZATION_MAP_FILE).read_text(encoding="utf-8")))
    missing = sorted(loaded.state_dict().keys() - stored.keys())
    if missing:  # which requantize would leave as they were made up
        raise InputError(f"{model} lacks {len(missing)} weights, the first one {missing[0]}; quantize its model again")
    return loaded.eval()
