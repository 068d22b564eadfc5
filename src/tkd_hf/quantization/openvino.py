"""OpenVINO, through optimum-intel: a folder that optimum-intel loads by itself, for processors of Intel.

Choose between the schemes by data and batch size. `int8` quantizes only weights and computes in floats. It needs no
data and loses almost nothing. `int8-static` computes in int8 as well. It is usually the fastest of all backends for
large batches of long texts, but it needs calibration examples from the training data, and regression models can lose
much. For one short text at a time, compare it with ONNX (`int8-dynamic`).

optimum-intel needs an older transformers than the other backends, so install the extra in an environment of its own.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..core.errors import InputError, first_line
from ..core.optional_dependencies import import_optional, suppress_exporter_output
from ..models.backends import Backend, Calibration, CardExample, Runner
from ..models.configuration_tkd import TKDConfig
from ..models.loading import classifier_class, load_config


if TYPE_CHECKING:
    from optimum.intel.openvino.modeling import OVModel


REQUIREMENT = "tkd-hf[openvino]"
_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_DTYPES |= {"i8": "int8", "u8": "uint8", "i4": "int4", "u4": "uint4"}


class OpenVINO(Backend):
    """A folder that `OVModelForSequenceClassification.from_pretrained` (or token classification) loads by itself."""

    name = "openvino"
    schemes = {
        "int8": "Matrices and embeddings in int8; computes in floats.",
        "int8-static": "Activations in int8 as well, in ranges that are measured on training examples.",
        "float32": "Nothing is quantized; only the runtime changes.",
    }
    calibrated_schemes = ("int8-static",)
    modules = ("optimum.intel", "openvino", "nncf")
    requirement = REQUIREMENT
    packages = ("openvino", "optimum-intel")
    files = ("openvino_model.xml", "openvino_model.bin", "openvino_config.json")
    folder = "openvino"
    exports = ("openvino_model.xml", "openvino/openvino_model.xml", "openvino/*_model.xml")
    root_export = "openvino_model.xml"

    def quantize(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        *,
        weights: str,
        calibration: Calibration,
    ) -> dict[str, Any]:
        """Write a folder that optimum-intel loads by itself.

        The arguments and the result are those of `Backend.quantize`; the scheme `int8-static` needs the examples.

        Raises:
            InputError: if optimum-intel cannot export a model of this architecture.
        """
        static = weights in self.calibrated_schemes
        with suppress_exporter_output("optimum", "nncf", "root"), _telemetry_disabled():
            exported = _export(model, tokenizer)
            if weights == "float32":
                exported.save_pretrained(str(folder))
            else:
                _quantize_graph(exported, folder, calibration if static else None)
        tokenizer.save_pretrained(folder)
        return {"weights": weights.removesuffix("-static"), "activations": "int8 static" if static else "float32"}

    def load_export(
        self, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, file: Path
    ) -> "OpenVINORunner":
        return OpenVINORunner(name, config, tokenizer, file)

    def card_example(self, example: CardExample) -> str:
        model_class = example.auto_class.replace("AutoModel", "OVModel")
        import_tkd = "import tkd_hf\n" if example.is_tkd else ""
        subfolder = f', subfolder="{self.folder}"' if "/" in example.file else ""
        return f"""\
With OpenVINO (`pip install "tkd-hf[openvino]"`):

```python
{import_tkd}from optimum.intel import {model_class}
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({example.repo_id})
model = {model_class}.from_pretrained({example.repo_id}{subfolder})
```"""

    def owns(self, file: Path) -> bool:
        """Return whether a file contains the weights of a graph: they are in a `.bin` next to its `.xml`."""
        return file.with_suffix(".xml").exists()


class OpenVINORunner(Runner):
    """A folder with an OpenVINO model, run by optimum-intel with as many threads as torch uses.

    It computes in float32 unless the weights are quantized.

    Args:
        name: the name to show to people.
        config, tokenizer: the configuration and the tokenizer of the model.
        file: the `.xml` file of the graph.

    Raises:
        InputError: if optimum-intel is not installed or cannot load the folder.
    """

    backend = OpenVINO.name

    def __init__(self, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, file: Path):
        intel = import_optional("optimum.intel", REQUIREMENT, name)
        super().__init__(name, config, tokenizer, [file, file.with_suffix(".bin")])
        # Without the hint, OpenVINO computes in bfloat16 on processors that support it.
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
        model_class = getattr(intel, classifier_class(config).__name__.replace("AutoModel", "OVModel"))
        try:
            self._model = model_class.from_pretrained(str(file.parent), export=False, ov_config=options, config=config)
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(f"OpenVINO cannot load {file}: {first_line(error)}") from error

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._model(**{name: value for name, value in batch.items() if name in self._model.input_names}).logits

    def weight_types(self) -> Iterable[tuple[str, int]]:
        for operation in self._model.model.get_ops():
            if operation.get_type_name() == "Constant":
                type_name = operation.get_element_type().get_type_name()
                yield _DTYPES.get(type_name, type_name), prod(operation.shape)


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


def _quantize_graph(exported: "OVModel", folder: Path, calibration: Calibration | None) -> None:
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
