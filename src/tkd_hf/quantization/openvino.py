"""OpenVINO through optimum-intel: the fastest way to run a student on a processor of Intel's."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..configuration_tkd import TKDConfig
from ..errors import InputError, first_line
from ..model_loading import classifier_class, load_config
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
    """Writes what `OVModelForSequenceClassification.from_pretrained` (or token classification) loads.

    Args:
        model, tokenizer: a bert-like classifier, TKD or another.
        folder: an empty folder.
        weights: `"int8"`, matrices and embeddings, computing in floats; `"int8-static"`, activations too, in ranges
            that are measured on examples; or `"float32"`.
        calibration: gives those examples.

    Raises:
        InputError: if optimum-intel does not know how to export such a model.
    """
    with suppress_exporter_output("optimum", "nncf", "root"), _without_telemetry():
        exported = _exported(model, tokenizer)
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
def _without_telemetry() -> Iterator[None]:
    """OpenVINO's converter reports its use to its makers unless it is told that this is CI; nothing else stops it."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        os.environ.pop("CI") if before is None else os.environ.update(CI=before)


def _exported(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "OVModel":
    from optimum import intel

    register_tkd()
    with TemporaryDirectory() as source:  # optimum exports what it loads itself
        model.save_pretrained(source)
        kind = getattr(intel, classifier_class(load_config(source)).__name__.replace("AutoModel", "OVModel"))
        tokenizer.save_pretrained(source)
        try:
            return kind.from_pretrained(source, export=True, compile=False, load_in_8bit=False)
        except (ValueError, KeyError) as error:
            name = model.config.name_or_path or type(model).__name__
            raise InputError(f"{name} cannot be exported to OpenVINO: {first_line(error)}") from error


def _quantize_graph(exported: "OVModel", folder: Path, calibration: Callable | None) -> None:
    """Quantizes in place, and saves: the weights alone, or with examples the activations, too."""
    import nncf
    from optimum.intel import OVConfig, OVQuantizationConfig, OVQuantizer, OVWeightQuantizationConfig

    examples = None
    if calibration:
        batches = [{name: batch[name].numpy() for name in exported.input_names} for batch in calibration()]
        examples = nncf.Dataset(batches)
        # 7 bits for weights: processors without VNNI add products of 8 by 8 bits in 16, which overflow
        scheme = OVQuantizationConfig(num_samples=len(batches), overflow_fix="enable")
    else:
        scheme = OVWeightQuantizationConfig(bits=8)
    OVQuantizer.from_pretrained(exported).quantize(examples, str(folder), OVConfig(quantization_config=scheme))


def register_tkd() -> None:
    """Tells optimum how to export TKD: as a BERT, whatever the shape of its layers. Again, it changes nothing."""
    from optimum.exporters.openvino.model_configs import BertOpenVINOConfig
    from optimum.exporters.tasks import TasksManager

    register = TasksManager.create_register("openvino")
    register(TKDConfig.model_type, "feature-extraction", "text-classification", "token-classification", "fill-mask")(
        type("TKDOpenVINOConfig", (BertOpenVINOConfig,), {})
    )
