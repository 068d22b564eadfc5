"""bitsandbytes: TKD models of any shape in 8 and 4 bits, with a float head, and the same logits after reloading."""

import logging
import shutil
import subprocess
import sys

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import _convert_weight_packed_for_cpu
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BitsAndBytesConfig,
)

from tkd_hf import (
    DistillationTrainer,
    InputError,
    TKDConfig,
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
)
from tkd_hf.data.tasks import get_task
from tkd_hf.models.arguments import LoraArguments
from tkd_hf.models.conversion import to_bert
from tkd_hf.models.loading import load_classifier, load_for_training
from tkd_hf.models.lora import add_adapters
from tkd_hf.models.quantized import quantized_by, quantized_copy
from tkd_hf.pruning.callback import calibration_data
from tkd_hf.pruning.pruner import StructuredPruner
from tkd_hf.pruning.structured import compact
from tkd_hf.pruning.targets import ParameterTarget
from tkd_hf.pruning.units import Units
from tkd_hf.quantization.bitsandbytes import BitsAndBytes

from ..factories import WORDS, arguments, build_teacher, logits_of_texts, losses, read_json, student_of, weights


quantize, SCHEMES = BitsAndBytes().quantize, tuple(BitsAndBytes.schemes)
CONFIGS = {
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "nested": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
}
UNEVEN = {"head_dim": 5, "heads_per_layer": [1, 3], "intermediate_sizes": [7, 13]}


def small_model(kind=TKDForSequenceClassification, **fields):
    torch.manual_seed(0)
    config = {"vocab_size": len(WORDS), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return kind(TKDConfig(**config | {"intermediate_size": 96, "initializer_range": 0.1} | fields)).eval()


def quantized_layers(model) -> set[str]:
    """Return the names of the layers that bitsandbytes has quantized."""
    kinds = (bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit)
    return {name for name, module in model.named_modules() if isinstance(module, kinds)}


def load(folder, **kwargs):
    return AutoModelForSequenceClassification.from_pretrained(folder, **kwargs)


@pytest.mark.parametrize("fields", [{}, UNEVEN, {"embedding_size": 24}], ids=["even", "uneven", "factorised"])
@pytest.mark.parametrize("scheme", CONFIGS)
def test_model_loaded_in_low_precision_keeps_its_logits_after_saving_and_reloading(tmp_path, tokenizer, scheme, fields):
    """With the API of transformers alone, the head stays in floats."""
    model = small_model(**fields)
    model.save_pretrained(tmp_path / "float")
    loaded = load(tmp_path / "float", quantization_config=CONFIGS[scheme])
    assert len(quantized_layers(loaded)) == 2 * 6 + ("embedding_size" in fields)
    assert not {"dense", "classifier"} & quantized_layers(loaded)
    assert torch.equal(loaded.dense.weight, model.dense.weight)
    logits = logits_of_texts(loaded, tokenizer)
    assert 0 < (logits - logits_of_texts(model, tokenizer)).abs().max() < (0.02 if scheme == "int8" else 0.5)
    loaded.save_pretrained(tmp_path / "saved")
    reloaded = load(tmp_path / "saved")
    assert quantized_layers(reloaded) == quantized_layers(loaded)
    assert torch.equal(logits_of_texts(reloaded, tokenizer), logits)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pruned_model_can_be_quantized(tmp_path, build, tokenizer, scheme):
    trainer = build()
    pruner = StructuredPruner(ParameterTarget(trainer.model, 0.6), *calibration_data(trainer))
    pruner.prune()
    model = pruner.compact()
    assert model.config.heads_per_layer or model.config.intermediate_sizes
    quantize(model, tokenizer, tmp_path, weights=scheme)
    first = logits_of_texts(load(tmp_path), tokenizer)
    assert torch.equal(logits_of_texts(load(tmp_path), tokenizer), first)


@pytest.mark.parametrize(
    ("kind", "auto_class", "floats"),
    [
        (TKDForTokenClassification, AutoModelForTokenClassification, "classifier"),
        (TKDForMaskedLM, AutoModelForMaskedLM, "decoder"),
    ],
)
def test_heads_of_other_tasks_stay_floats(tmp_path, kind, auto_class, floats):
    small_model(kind).save_pretrained(tmp_path)
    for config in CONFIGS.values():
        assert floats not in quantized_layers(auto_class.from_pretrained(tmp_path, quantization_config=config))
    assert len(quantized_layers(AutoModel.from_pretrained(tmp_path, quantization_config=CONFIGS["int8"]))) == 12


def test_head_stays_float_if_the_user_lists_other_modules_to_skip(tmp_path):
    small_model().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["tkd.layers.0"])
    assert {name.split(".")[2] for name in quantized_layers(load(tmp_path, quantization_config=config))} == {"1"}


def test_head_stays_float32_in_a_float16_model(tmp_path, tokenizer):
    """The setting that excludes the head from quantization excludes it from float16 as well."""
    model = small_model()
    model.save_pretrained(tmp_path)
    half = load(tmp_path, dtype=torch.float16)
    assert (half.dense.weight.dtype, half.tkd.layers[0].attention.query.weight.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(logits_of_texts(half, tokenizer), logits_of_texts(model, tokenizer), atol=0.05, rtol=0)


def test_4_bit_weights_are_not_repacked(tmp_path, tokenizer):
    """On processors with AVX512-BF16, bitsandbytes repacks weights in evaluation, and then saves the wrong weights.

    It saves the scales of repacked weights in the packed order, so the weights change when they are loaded. The test
    repacks them by hand, because the processor that runs it may lack AVX512-BF16.
    """
    small_model(intermediate_size=128).save_pretrained(tmp_path / "float")
    loaded = load(tmp_path / "float", quantization_config=CONFIGS["nf4"])
    layers = [module for module in loaded.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert {layer.support_avx512bf16_for_cpu for layer in layers} == {False}
    before = logits_of_texts(loaded, tokenizer)
    weight = loaded.tkd.layers[0].feed_forward.output.weight
    weight.data, weight.quant_state = _convert_weight_packed_for_cpu(weight.data, weight.quant_state)
    loaded.save_pretrained(tmp_path / "packed")
    assert (logits_of_texts(load(tmp_path / "packed"), tokenizer) - before).abs().max() > 0.01


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantize_writes_a_loadable_folder_and_leaves_the_model_unchanged(tmp_path, teacher, tokenizer, scheme):
    """On processors with AVX512-BF16, bitsandbytes runs stock models only if their sizes are such multiples of 64."""
    for model in (student_of(teacher).eval(), build_teacher(hidden_size=64, intermediate_size=128)):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        before = logits_of_texts(model, tokenizer)
        assert quantize(model, tokenizer, tmp_path, weights=scheme) == {"weights": scheme}
        assert torch.equal(logits_of_texts(model, tokenizer), before)
        assert not quantized_layers(model)
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in tmp_path.iterdir()}
        assert read_json(tmp_path / "config.json")["quantization_config"]["quant_method"] == "bitsandbytes"
        loaded = load(tmp_path)
        assert quantized_layers(loaded)
        assert not [name for name in quantized_layers(loaded) if "layer" not in name]
        assert torch.equal(
            logits_of_texts(loaded, tokenizer), logits_of_texts(quantized_copy(model, scheme), tokenizer)
        )
        with pytest.raises(InputError, match="is quantized already, by bitsandbytes; quantize the float model"):
            quantize(loaded, tokenizer, tmp_path)


def test_load_classifier_loads_int8_without_warnings(tmp_path, teacher, tokenizer, caplog):
    quantize(student_of(teacher), tokenizer, tmp_path)
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.NOTSET)
    model = load_classifier(str(tmp_path))
    assert quantized_by(model) == quantized_by(model.config) == "bitsandbytes"
    assert torch.equal(logits_of_texts(model, tokenizer), logits_of_texts(load(tmp_path), tokenizer))
    assert "MatMul8bitLt" not in caplog.text


@pytest.mark.slow
def test_quantized_folder_loads_as_remote_code(tmp_path, teacher, tokenizer):
    """The model class in the folder keeps the head in floats without tkd_hf."""
    quantize(student_of(teacher), tokenizer, tmp_path, weights="nf4")
    code = (
        "import sys, torch; from transformers import AutoModelForSequenceClassification as Auto; "
        f"model = Auto.from_pretrained({str(tmp_path)!r}, trust_remote_code=True); "
        "assert 'tkd_hf' not in sys.modules; print(type(model.classifier).__name__, model.dense.weight.dtype, "
        "model.tkd.layers[0].attention.query.support_avx512bf16_for_cpu, "
        "*model(torch.tensor([[2, 5, 3]])).logits.flatten().tolist())"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    head_class, dtype, repacks, *logits = process.stdout.split()
    assert (head_class, dtype, repacks) == ("Linear", "torch.float32", "False")
    torch.testing.assert_close(
        torch.tensor([float(x) for x in logits]), load(tmp_path)(torch.tensor([[2, 5, 3]])).logits[0]
    )


def test_quantized_models_and_unknown_schemes_are_refused(tmp_path, teacher, tokenizer):
    (tmp_path / "small").mkdir()
    quantize(teacher, tokenizer, tmp_path / "small")
    with pytest.raises(InputError, match="small' is quantized already, by bitsandbytes; train the float model"):
        load_for_training(str(tmp_path / "small"), get_task("sst2"))
    loaded = load(tmp_path / "small")
    with pytest.raises(InputError, match="convert the float model"):
        student_of(loaded)
    student = quantized_copy(student_of(teacher))
    with pytest.raises(InputError, match="convert the float model"):
        to_bert(student)
    with pytest.raises(InputError, match="prune the float model"):
        compact(student, Units.full(student.config, True))
    with pytest.raises(InputError, match="no scheme weights='int3'; choose among int8, nf4, fp4"):
        quantize(teacher, tokenizer, tmp_path, weights="int3")
    with pytest.raises(InputError, match="contains an adapter that is not merged; merge the two first"):
        quantize(add_adapters(student_of(teacher), LoraArguments()), tokenizer, tmp_path)


def test_8_bit_optimizer_trains_stores_bytes_and_resumes_to_the_same_weights(teacher, tmp_path, tokenizer, features):
    def build_trainer(**fields):
        torch.manual_seed(0)
        model = small_model(num_hidden_layers=1, id2label=teacher.config.id2label, label2id=teacher.config.label2id)
        args = arguments(
            tmp_path,
            optim="adamw_bnb_8bit",
            num_train_epochs=10,
            objectives={"logits": 1.0},
            learning_rate=2e-3,
            **fields,
        )
        return DistillationTrainer(
            model, args, teacher_model=teacher, train_dataset=features, processing_class=tokenizer
        )

    uninterrupted = build_trainer(save_strategy="steps", save_steps=10)
    step_losses = losses(uninterrupted)
    assert sum(step_losses[-4:]) < 0.5 * sum(step_losses[:4])
    state = [value for moments in uninterrupted.optimizer.state.values() for value in moments.values()]
    assert any(torch.is_tensor(value) and value.dtype == torch.uint8 and value.numel() >= 4096 for value in state)
    resumed = build_trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-10"))
    assert torch.equal(weights(resumed), weights(uninterrupted))
