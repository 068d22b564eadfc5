"""optimum-quanto: the encoder's linear layers with weights in 8 bits.

Choose this backend to save memory on a device that bitsandbytes does not support, such as MPS. It does not make a model
faster on a CPU. Embeddings stay floats, so a small student shrinks little.

The folder has the layout of quanto's own `QuantizedTransformersModel`. `from_pretrained` of transformers cannot load
it; `load` can, and so can every command of tkd-hf.
"""

import copy
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, QuantoConfig

from ..core.errors import InputError
from ..core.optional_dependencies import import_optional
from ..models.backends import Backend, Calibration
from ..models.loading import classifier_class, load_config, model_folder
from ..models.quantized import head_modules, refuse_adapters, refuse_quantized


REQUIREMENT = "tkd-hf[quanto]"
QUANTIZATION_MAP_FILE = "quanto_qmap.json"  # names the layers that are quantized, and how


class Quanto(Backend):
    """A folder for `load`, or for a subclass of `optimum.quanto.QuantizedTransformersModel`."""

    name = "quanto"
    schemes = {"int8": "Linear layers in 8 bits."}
    modules = ("optimum.quanto",)
    requirement = REQUIREMENT
    packages = ("optimum-quanto",)
    files = (QUANTIZATION_MAP_FILE,)

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
            InputError: if the model is already quantized, has adapters that are not merged, the scheme is unknown, or
                optimum-quanto is not installed.
        """
        quanto = import_optional("optimum.quanto", REQUIREMENT, "quantization by quanto")
        refuse_quantized(model, "quantize")
        refuse_adapters(model)
        if weights not in self.schemes:
            raise InputError(f"quanto has no scheme weights={weights!r} here; choose among {', '.join(self.schemes)}")
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

    def load(
        self, auto_class: Any, model: str, revision: str | None, **options: Any
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        config = load_config(f"{model}@{revision}" if revision else model)
        if auto_class is not classifier_class(config):  # as transformers does, which refuses a TKD
            return super().load(auto_class, model, revision, **options)
        return load(model, revision), {"missing_keys": [], "unexpected_keys": []}

    def weight_type(self, weight: Tensor) -> str:
        """Return the data type of a weight as it is stored; its `dtype` is the one that it stands for."""
        stored = getattr(weight, "qtype", None)
        return super().weight_type(weight) if stored is None else str(stored.dtype).removeprefix("torch.")


def load(model: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Load a classifier that `Quanto.quantize` wrote.

    Args:
        model: folder or Hub id.
        revision: revision of the Hub id; by default the newest.

    Raises:
        InputError: if optimum-quanto is not installed, or weights are missing.

    Example (`folder`: written by `tkd-hf quantize --backend quanto`; `tokenizer`: its tokenizer):

        load(folder)(**tokenizer("a text", return_tensors="pt")).logits
    """
    quanto = import_optional("optimum.quanto", REQUIREMENT, str(model))
    folder = model_folder(model, revision)
    config = load_config(str(folder))
    loaded = classifier_class(config).from_config(config, dtype=config.dtype)
    stored = load_file(folder / "model.safetensors")
    quanto.requantize(loaded, stored, json.loads((folder / QUANTIZATION_MAP_FILE).read_text(encoding="utf-8")))
    missing = sorted(loaded.state_dict().keys() - stored.keys())
    if missing:  # `requantize` leaves missing weights at their random initial values
        raise InputError(f"{model} lacks {len(missing)} weights, such as {missing[0]}; quantize the float model again")
    return loaded.eval()
