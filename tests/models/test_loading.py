"""Loading, saving and loading again: the one loader and what it refuses, and TKD as users without tkd-hf load it."""

import ast
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    pipeline,
)

import tkd_hf
from tkd_hf import (
    DistillationTrainer,
    InputError,
    TKDConfig,
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
    student_from_teacher,
)
from tkd_hf.data.tasks import get_task
from tkd_hf.models.loading import (
    load_classifier,
    load_classifier_if_trained,
    load_classifier_with_tokenizer,
    load_encoder,
    load_for_training,
    load_masked_lm_if_trained,
    load_tokenizer,
    load_with_head,
)

from ..factories import WORDS, arguments, build_teacher, build_tokenizer, student_of
from .test_modeling_tkd import SHAPES, padded, sentence, tiny


LOADERS = {
    "classifier": load_classifier,
    "classifier if trained": load_classifier_if_trained,
    "encoder": load_encoder,
    "masked LM": load_masked_lm_if_trained,
    "for training": lambda model: load_for_training(model, get_task("sst2")),
    "teacher": lambda model: load_with_head(model, "ForSequenceClassification"),
    "student": student_from_teacher,
}


def save(folder, change_name=str, config=None, dtype=torch.float32, kind=BertForSequenceClassification):
    """Save a teacher with other names of weights, other fields in its configuration, or in half precision."""
    build_teacher(kind=kind).to(dtype).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    renamed = {change_name(name): weight for name, weight in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    return str(folder)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("_orig_mod.", "torch.compile adds _orig_mod"),
        ("module.", "parallel training adds module"),
        ("module._orig_mod.", "torch.compile adds _orig_mod"),
        ("model.", "a training framework adds model"),
    ],
)
def test_weights_with_the_prefix_of_a_wrapper_are_refused(load, prefix, reason, tmp_path):
    folder = save(tmp_path, lambda name: prefix + name)
    message = rf"the weights of '{tmp_path}' are called {prefix}(bert\.\S+), for example, instead of \1: {reason}; save"
    with pytest.raises(InputError, match=message):
        load(folder)


def test_a_compiled_part_of_a_model_is_named(tmp_path):
    folder = save(tmp_path, lambda name: name.replace("bert.encoder", "bert.encoder._orig_mod"))
    with pytest.raises(InputError, match=r"called bert\.encoder\._orig_mod\.(layer\.\S+), .* bert\.encoder\.\1: torch"):
        load_for_training(folder, get_task("sst2"))


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 8}, "the shapes of its weights differ from those in its config.json"),
        ({"vocab_size": 40}, "the shapes of its weights differ from those in its config.json"),
        ({"num_hidden_layers": 6}, r"lacks weights of its encoder \(\S+ \S+ \S+ and 29 more are missing\); correct"),
        ({"num_hidden_layers": 2}, "layers that its configuration does not have .* and 31 more"),
        (
            {"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]},
            r"lacks weights of its encoder \(.* 65 more are missing, and its files hold bert\.encoder\.layer\.0",
        ),
    ],
    ids=["hidden size", "vocabulary", "more layers", "fewer layers", "family"],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(load, config, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load(save(tmp_path, config=config))


def test_only_a_new_head_is_initialised_at_random_and_the_log_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="tkd_hf")
    encoder = build_teacher().bert
    encoder.save_pretrained(tmp_path)
    model = load_for_training(str(tmp_path), get_task("sst2"))
    assert "new head, initialised at random: classifier.bias, classifier.weight" in caplog.text
    for name, weight in encoder.state_dict().items():
        assert torch.equal(model.bert.state_dict()[name], weight)
    with pytest.raises(
        InputError, match=r"not a trained classifier \(classifier.bias, classifier.weight are missing\)"
    ):
        load_with_head(tmp_path, "ForSequenceClassification")
    caplog.clear()
    build_teacher().save_pretrained(tmp_path)
    load_for_training(str(tmp_path), get_task("sst2"))
    assert "initialised at random" not in caplog.text


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_loaded_in_float32(load, dtype, tmp_path):
    """A step of 2e-5 would change few weights in bfloat16; in float32 it changes all."""
    kind = BertForMaskedLM if load is load_masked_lm_if_trained else BertForSequenceClassification
    folder = save(tmp_path, dtype=dtype, kind=kind)
    model = load(folder)
    assert model.dtype == torch.float32
    stored = dict(build_teacher(kind=kind).to(dtype).named_parameters())
    for name, weight in model.named_parameters():
        assert (weight + 2e-5 != weight).all()
        if name in stored:
            assert torch.equal(weight, stored[name].float())
    assert load_with_head(folder, "Model", dtype="auto").dtype == dtype


def gpt2(folder, ends_texts=False):
    """Save a GPT-2 classifier and its tokenizer, neither of which names a padding token."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate([*WORDS, "<end>"])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends_texts:
        tokenizer.post_processor = build_tokenizer().backend_tokenizer.post_processor
    end = "[SEP]" if ends_texts else "<end>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token=end).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS) + 1, n_embd=8, n_layer=1, n_head=2, n_positions=16, num_labels=3)
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_a_decoder_without_a_padding_token_pads_with_the_token_that_ends_texts(tmp_path):
    model, tokenizer = load_classifier_with_tokenizer(gpt2(tmp_path))
    assert (tokenizer.pad_token, model.config.pad_token_id) == ("<end>", len(WORDS))
    texts = ["good film", "a very fine story"]
    with torch.no_grad():
        together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        alone = [model(**tokenizer(text, return_tensors="pt")).logits for text in texts]
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_padding_token_of_the_configuration_is_used_for_a_tokenizer_without_one(tmp_path):
    save(tmp_path)
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "[PAD]"


def test_a_token_that_ends_every_text_is_no_padding_token(tmp_path):
    """GPT-2 reads the last token that is not padding, so padding with that token changes the text that it reads."""
    with pytest.raises(
        InputError, match=r"tokenizer of .* has no padding token.*pad_token_id.*set tokenizer.pad_token"
    ):
        load_tokenizer(gpt2(tmp_path, ends_texts=True))


def test_a_tokenizer_may_have_fewer_tokens_than_the_model_has_embeddings(tmp_path):
    teacher = build_teacher()
    teacher.resize_token_embeddings(64)
    teacher.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = load_classifier_with_tokenizer(str(tmp_path))
    assert (len(tokenizer), model.config.vocab_size) == (15, 64)


def test_pairs_have_no_token_types_that_the_model_lacks(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    RobertaForSequenceClassification(RobertaConfig(vocab_size=len(WORDS), type_vocab_size=1, **sizes)).save_pretrained(
        tmp_path
    )
    build_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = load_classifier_with_tokenizer(str(tmp_path))
    batch = tokenizer("good film", "dull story", return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    first_type = torch.zeros_like(batch["input_ids"])
    assert torch.equal(model(**batch).logits, model(**batch, token_type_ids=first_type).logits)
    build_teacher().save_pretrained(tmp_path)  # a BERT of two types
    assert "token_type_ids" in load_tokenizer(str(tmp_path))("good film", "dull story")


def test_more_word_embeddings_than_tokens_are_no_other_tokenizer(tmp_path, tokenizer, features):
    """Many models on the Hub have them; they say nothing about the tokenizer, and change no loss."""
    teacher, wide_teacher = build_teacher(), build_teacher()
    wide_teacher.resize_token_embeddings(64)

    def trainer(model, **fields):
        args = arguments(tmp_path, objectives={"logits": 1.0, "hidden": 1.0})
        student, tokenizers = student_of(teacher), {"processing_class": tokenizer, **fields}
        return DistillationTrainer(student, args, teacher_model=model, eval_dataset=features, **tokenizers)

    expected, loss = (
        trainer(model, teacher_processing_class=tokenizer).evaluate()["eval_loss"] for model in (teacher, wide_teacher)
    )
    assert loss == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="different tokenizers"):  # the sizes decide if the tokenizer is not given
        trainer(wide_teacher)


# Who may call `from_pretrained` besides the loader: a class that loads itself, and libraries besides transformers. The
# script in hub/ loads a model as users without this package do.
OTHER_CALLS = {"super()", "type(model)", "PeftConfig", "PeftModel", "OVQuantizer"}
LOADING = {"models/loading.py", "models/backends.py", "hub/load_without_package.py"}


def test_only_the_loader_calls_from_pretrained_of_auto_classes():
    package = Path(tkd_hf.__file__).parent
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if name in LOADING:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                owner = ast.unparse(node.value)
                assert owner in OTHER_CALLS or (owner, "intel" in ast.unparse(tree)) == ("model_class", True), name
            if isinstance(node, ast.ImportFrom) and node.module == "transformers" and "models/" not in name:
                assert not [alias.name for alias in node.names if alias.name.startswith("Auto")], name


# Private attributes of torch's modules, which are stable and documented for subclasses.
PRIVATE_OF_TORCH = {"_forward_hooks", "_forward_pre_hooks", "_save_to_state_dict", "_load_from_state_dict"}


def test_only_models_and_the_base_trainer_use_private_names_of_transformers():
    """They may change with any release. Private names on `self` count only in a class that overrides them."""
    package = Path(tkd_hf.__file__).parent
    for path in sorted(package.rglob("*.py")):
        name, source = path.relative_to(package).as_posix(), path.read_text(encoding="utf-8")
        if name.startswith("models/") or name == "training/base_trainer.py":
            continue
        nodes = list(ast.walk(ast.parse(source)))
        overridden = {
            node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "super()"
        }
        own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)} - overridden
        for node in nodes:
            if isinstance(node, ast.Attribute):
                used = node.attr if ast.unparse(node.value) not in ("self", "cls") else ""
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                used = ast.unparse(node.args[1]).strip("'")
            else:
                continue
            private = used.startswith("_") and not used.startswith("__")
            assert not private or used in own | PRIVATE_OF_TORCH, f"{name}: {used}"


# --- saved TKD models: with the Auto classes, as a pipeline, and as remote code without tkd-hf ------------------------


AUTO_CLASSES = {
    TKDModel: AutoModel,
    TKDForSequenceClassification: AutoModelForSequenceClassification,
    TKDForTokenClassification: AutoModelForTokenClassification,
    TKDForMaskedLM: AutoModelForMaskedLM,
}


def assert_same_weights(model, expected):
    weights, expected_weights = model.state_dict(), expected.state_dict()
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected_weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_head_loads_with_its_auto_class(shape, tmp_path):
    inputs = padded(sentence(6), 2, 0)
    for model_class, auto_class in AUTO_CLASSES.items():
        model = tiny(model_class, **SHAPES[shape])
        folder = tmp_path / model_class.__name__
        model.save_pretrained(folder)
        loaded = auto_class.from_pretrained(folder)
        assert type(loaded) is model_class
        assert_same_weights(loaded, model)
        with torch.no_grad():
            torch.testing.assert_close(loaded(**inputs)[0], model(**inputs)[0], rtol=0, atol=1e-6)
    assert type(AutoConfig.from_pretrained(folder)) is TKDConfig


def test_saved_folder_contains_the_source_files(tmp_path):
    tiny().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {"configuration_tkd.py", "layers_tkd.py", "modeling_tkd.py"}


def test_saved_classifier_loads_as_a_bare_encoder(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    assert_same_weights(AutoModel.from_pretrained(tmp_path), model.tkd)


def test_pipeline_classifies_the_same_alone_and_in_a_batch(tmp_path):
    build_tokenizer().save_pretrained(tmp_path)
    tiny(num_labels=2, id2label={0: "negative", 1: "positive"}).save_pretrained(tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path))
    texts = ["a fine film", "dull"]
    predictions = [classify(text)[0] for text in texts]
    assert {prediction["label"] for prediction in predictions} <= {"negative", "positive"}
    for prediction, in_batch in zip(predictions, classify(texts, batch_size=2), strict=True):
        assert in_batch["label"] == prediction["label"]
        assert in_batch["score"] == pytest.approx(prediction["score"], abs=1e-5)


def test_remote_code_loads_and_saves_without_the_package(tmp_path):
    student = tiny(heads_per_layer=[4, 1, 3])
    student.save_pretrained(tmp_path / "student")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("load_without_package.py")
    process = subprocess.run(
        [sys.executable, "-P", script, tmp_path / "student", tmp_path / "saved"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    names, logits = process.stdout.splitlines()[-2:]
    module, model_class, encoder_class = names.split()
    assert module.startswith("transformers_modules.")
    assert (model_class, encoder_class) == ("TKDForSequenceClassification", "TKDModel")
    expected = student(torch.tensor([[2, 5, 6, 3]])).logits
    torch.testing.assert_close(torch.tensor(json.loads(logits)), expected, rtol=0, atol=1e-5)
