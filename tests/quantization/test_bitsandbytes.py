"""bitsandbytes: any shape of TKD in 8 and 4 bits, its head in floats, equal when it is loaded again."""

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
from tkd_hf.adapters import LoraArguments, add_adapters
from tkd_hf.conversion import to_bert
from tkd_hf.data.tasks import get_task
from tkd_hf.model_loading import load_classifier, load_for_training, quantized_by
from tkd_hf.pruning import ParameterTarget, StructuredPruner, Units, calibration_data, compact
from tkd_hf.quantization.bitsandbytes import SCHEMES, quantize, quantized_copy

from ..conftest import WORDS, build_teacher, read_json
from ..training import arguments, logits_of_texts, losses, student_of, weights


CONFIGS = {
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "nested": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
}
UNEVEN = {"head_dim": 5, "heads_per_layer": [1, 3], "intermediate_sizes": [7, 13]}


def small(kind=TKDForSequenceClassification, **fields):
    torch.manual_seed(0)
    config = {"vocab_size": len(WORDS), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return kind(TKDConfig(**config | {"intermediate_size": 96, "initializer_range": 0.1} | fields)).eval()


def converted(model) -> set[str]:
    kinds = (bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit)
    return {name for name, module in model.named_modules() if isinstance(module, kinds)}


def load(folder, **kwargs):
    return AutoModelForSequenceClassification.from_pretrained(folder, **kwargs)


@pytest.mark.parametrize("fields", [{}, UNEVEN, {"embedding_size": 24}], ids=["even", "uneven", "factorised"])
@pytest.mark.parametrize("scheme", CONFIGS)
def test_loaded_run_saved_and_loaded_again(tmp_path, tokenizer, scheme, fields):
    """As users do it, without a word of ours: the head is in floats, and what was run is saved as it was."""
    model = small(**fields)
    model.save_pretrained(tmp_path / "float")
    loaded = load(tmp_path / "float", quantization_config=CONFIGS[scheme])
    assert len(converted(loaded)) == 2 * 6 + ("embedding_size" in fields)
    assert not {"dense", "classifier"} & converted(loaded)
    assert torch.equal(loaded.dense.weight, model.dense.weight)
    logits = logits_of_texts(loaded, tokenizer)
    assert 0 < (logits - logits_of_texts(model, tokenizer)).abs().max() < (0.02 if scheme == "int8" else 0.5)
    loaded.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert converted(again) == converted(loaded)
    assert torch.equal(logits_of_texts(again, tokenizer), logits)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pruned(tmp_path, build, tokenizer, scheme):
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
def test_other_heads_stay_floats_too(tmp_path, kind, auto_class, floats):
    small(kind).save_pretrained(tmp_path)
    for config in CONFIGS.values():
        assert floats not in converted(auto_class.from_pretrained(tmp_path, quantization_config=config))
    assert len(converted(AutoModel.from_pretrained(tmp_path, quantization_config=CONFIGS["int8"]))) == 12


def test_the_head_is_protected_from_a_list_of_ones_own(tmp_path):
    small().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["tkd.layers.0"])
    assert {name.split(".")[2] for name in converted(load(tmp_path, quantization_config=config))} == {"1"}


def test_half_precision_with_a_head_in_floats(tmp_path, tokenizer):
    """What keeps the head from being quantized keeps it from float16, too."""
    model = small()
    model.save_pretrained(tmp_path)
    half = load(tmp_path, dtype=torch.float16)
    assert (half.dense.weight.dtype, half.tkd.layers[0].attention.query.weight.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(logits_of_texts(half, tokenizer), logits_of_texts(model, tokenizer), atol=0.05, rtol=0)


def test_4_bits_are_never_repacked(tmp_path, tokenizer):
    """Where the processor has AVX512-BF16, which those of tests may lack, bitsandbytes packs weights in evaluation.

    It saves the scales of what was packed in the packed order: loaded again, such weights are others.
    """
    small(intermediate_size=128).save_pretrained(tmp_path / "float")
    loaded = load(tmp_path / "float", quantization_config=CONFIGS["nf4"])
    layers = [module for module in loaded.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert {layer.support_avx512bf16_for_cpu for layer in layers} == {False}
    before = logits_of_texts(loaded, tokenizer)
    weight = loaded.tkd.layers[0].feed_forward.output.weight
    weight.data, weight.quant_state = _convert_weight_packed_for_cpu(weight.data, weight.quant_state)
    loaded.save_pretrained(tmp_path / "packed")  # what would happen
    assert (logits_of_texts(load(tmp_path / "packed"), tokenizer) - before).abs().max() > 0.01


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantize_writes_a_folder(tmp_path, teacher, tokenizer, scheme):
    """Of a student and of a stock model; the model that was given stays as it is.

    Where the processor has AVX512-BF16, bitsandbytes runs stock models of these multiples alone; a TKD is of any shape.
    """
    for model in (student_of(teacher).eval(), build_teacher(hidden_size=64, intermediate_size=128)):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        before = logits_of_texts(model, tokenizer)
        assert quantize(model, tokenizer, tmp_path, weights=scheme) == {"weights": scheme}
        assert torch.equal(logits_of_texts(model, tokenizer), before)
        assert not converted(model)
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in tmp_path.iterdir()}
        assert read_json(tmp_path / "config.json")["quantization_config"]["quant_method"] == "bitsandbytes"
        loaded = load(tmp_path)
        assert converted(loaded)
        assert not [name for name in converted(loaded) if "layer" not in name]
        assert torch.equal(
            logits_of_texts(loaded, tokenizer), logits_of_texts(quantized_copy(model, scheme), tokenizer)
        )
        with pytest.raises(InputError, match="is quantized already, by bitsandbytes; quantize the float model"):
            quantize(loaded, tokenizer, tmp_path)


def test_the_package_loads_it_and_is_silent(tmp_path, teacher, tokenizer, caplog):
    quantize(student_of(teacher), tokenizer, tmp_path)
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.NOTSET)
    model = load_classifier(str(tmp_path))
    assert quantized_by(model) == quantized_by(model.config) == "bitsandbytes"
    assert torch.equal(logits_of_texts(model, tokenizer), logits_of_texts(load(tmp_path), tokenizer))
    assert "MatMul8bitLt" not in caplog.text


@pytest.mark.slow
def test_loaded_as_remote_code(tmp_path, teacher, tokenizer):
    """Without the package, the class in the folder protects the head all the same."""
    quantize(student_of(teacher), tokenizer, tmp_path, weights="nf4")
    code = (
        "import sys, torch; from transformers import AutoModelForSequenceClassification as Auto; "
        f"model = Auto.from_pretrained({str(tmp_path)!r}, trust_remote_code=True); "
        "assert 'tkd_hf' not in sys.modules; print(type(model.classifier).__name__, model.dense.weight.dtype, "
        "model.tkd.layers[0].attention.query.support_avx512bf16_for_cpu, "
        "*model(torch.tensor([[2, 5, 3]])).logits.flatten().tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kind, dtype, repacks, *logits = done.stdout.split()
    assert (kind, dtype, repacks) == ("Linear", "torch.float32", "False")
    torch.testing.assert_close(
        torch.tensor([float(x) for x in logits]), load(tmp_path)(torch.tensor([[2, 5, 3]])).logits[0]
    )


def test_mistakes(tmp_path, teacher, tokenizer):
    (tmp_path / "small").mkdir()
    quantize(teacher, tokenizer, tmp_path / "small")
    with pytest.raises(InputError, match="small' is quantized already, by bitsandbytes; train the float model"):
        load_for_training(str(tmp_path / "small"), get_task("sst2"))
    loaded = load(tmp_path / "small")
    with pytest.raises(InputError, match="convert the float model"):
        student_of(loaded)  # integers are no weights
    student = quantized_copy(student_of(teacher))
    with pytest.raises(InputError, match="convert the float model"):
        to_bert(student)
    with pytest.raises(InputError, match="prune the float model"):
        compact(student, Units.full(student.config, True))
    with pytest.raises(InputError, match="no weights='int3'; choose among int8, nf4, fp4"):
        quantize(teacher, tokenizer, tmp_path, weights="int3")
    with pytest.raises(InputError, match="contains an adapter that is not merged; merge the two first"):
        quantize(add_adapters(student_of(teacher), LoraArguments()), tokenizer, tmp_path)


def test_an_optimizer_of_8_bits(teacher, tmp_path, tokenizer, features):
    """It trains as well, holds its state in bytes, and resumes as if nothing had been."""

    def trainer(**fields):
        torch.manual_seed(0)
        model = small(num_hidden_layers=1, id2label=teacher.config.id2label, label2id=teacher.config.label2id)
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

    whole = trainer(save_strategy="steps", save_steps=10)
    seen = losses(whole)
    assert sum(seen[-4:]) < 0.5 * sum(seen[:4])
    state = [value for of_weight in whole.optimizer.state.values() for value in of_weight.values()]
    assert any(torch.is_tensor(value) and value.dtype == torch.uint8 and value.numel() >= 4096 for value in state)
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-10"))
    assert torch.equal(weights(resumed), weights(whole))
