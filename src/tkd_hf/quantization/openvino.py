"""OpenVINO, through optimum-intel: a folder that optimum-intel loads by itself, for processors of Intel.

Choose between the schemes by data and batch size. `int8` quantizes only weights and computes in floats. It needs no
data and loses almost nothing. `int8-static` computes in int8 as well. It is usually the fastest of all backends for
large batches of long texts, but it needs calibration examples from the training data, and regression models can lose
much. For one short text at a time, compare it with ONNX (`int8-dynamic`).

optimum-intel needs an older transformers than the other backends, so install the extra in an environment of its own.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.errors import InputError, first_line
from ..models.configuration_tkd import TKDConfig
from ..models.loading import classifier_class, load_config
from . import suppress_exporter_output


if TYPE_CHECKING:
    from optimum.intel.openvino.modeling import OVModel


SCHEMES = ("int8", "int8-static", "float32")
CALIBRATED_SCHEMES = ("int8-static",)


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    weights: str,
    calibration: Callable[[], Iterable[dict[str, torch.Tensor]]],
) -> dict[str, Any]:
    """Write a folder that `OVModelForSequenceClassification.from_pretrained` (or token classification) loads by itself.

    Args:
        model: a BERT-like classifier, TKD or another architecture. It is not changed.
        tokenizer: its tokenizer.
        folder: an empty folder.
        weights: `"int8"` stores matrices and embeddings in int8 and computes in floats. `"int8-static"` rounds
            activations to int8 as well, in ranges measured on examples. `"float32"` quantizes nothing.
        calibration: yields the examples, for `"int8-static"` only.

    Returns:
        a description of weights and activations, for the run record.

    Raises:
        InputError: if optimum-intel cannot export a model of this architecture.
    """
    with suppress_exporter_output("optimum", "nncf", "root"), _telemetry_disabled():
        exported = _export(model, tokenizer)
        if weights == "float32":
            exported.save_pretrained(str(folder))
        else:
            _quantize_graph(exported, folder, calibration if weights in CALIBRATED_SCHEMES else None)
    tokenizer.save_pretrained(folder)
    return {
        "weights": weights.removesuffix("-static"),
        "activations": "int8 static" if weights in CALIBRATED_SCHEMES else "float32",
    }


@contextmanager
def _telemetry_disabled() -> Iterator[None]:
    """Keep OpenVINO's converter from reporting its use to Intel, which it does unless it believes to run in CI."""
    previous = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if previous is None:
            os.environ.pop("CI")
        else:
            os.environ["CI"] = previous


def _export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "OVModel":
    """Export a classifier to a float32 model of optimum-intel."""
    from optimum import intel

    register_tkd()
    with TemporaryDirectory() as source:  # optimum exports only models that it loads itself
        model.save_pretrained(source)
        model_class = getattr(intel, classifier_class(load_config(source)).__name__.replace("AutoModel", "OVModel"))
        tokenizer.save_pretrained(source)
        try:
            return model_class.from_pretrained(source, export=True, compile=False, load_in_8bit=False)
        except (ValueError, KeyError) as error:
            name = model.config.name_or_path or type(model).__name__
            raise InputError(f"{name} cannot be exported to OpenVINO: {first_line(error)}") from error


def _quantize_graph(exported: "OVModel", folder: Path, calibration: Callable | None) -> None:
    """Quantize an exported model in place and save it: weights only, or with calibration also activations."""
    import nncf
    from optimum.intel import OVConfig, OVQuantizationConfig, OVQuantizer, OVWeightQuantizationConfig

    examples = None
    if calibration:
        batches = [{name: batch[name].numpy() for name in exported.input_names} for batch in calibration()]
        examples = nncf.Dataset(batches)
        # This gives weights 7 bits: processors without VNNI add products of two 8-bit numbers in 16 bits, which
        # overflow.
        scheme = OVQuantizationConfig(num_samples=len(batches), overflow_fix="enable")
    else:
        scheme = OVWeightQuantizationConfig(bits=8)
    OVQuantizer.from_pretrained(exported).quantize(examples, str(folder), OVConfig(quantization_config=scheme))


def register_tkd() -> None:
    """Tell optimum to export TKD models as it exports BERT; repeated calls do no harm.

    Layers may have different numbers of heads and neurons.
    """
    from optimum.exporters.openvino.model_configs import BertOpenVINOConfig
    from optimum.exporters.tasks import TasksManager

    register = TasksManager.create_register("openvino")
    register(TKDConfig.model_type, "feature-extraction", "text-classification", "token-classification", "fill-mask")(
        type("TKDOpenVINOConfig", (BertOpenVINOConfig,), {})
    )
