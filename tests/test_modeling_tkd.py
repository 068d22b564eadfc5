"""The model: padding, attention, checkpointing, losses, and what a saved folder can be loaded with."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from tkd_hf import (
    TKDConfig,
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
)
from tkd_hf.layers_tkd import Packing, sinusoidal_positions


CLASSES = [TKDModel, TKDForSequenceClassification, TKDForTokenClassification, TKDForMaskedLM]
AUTO_CLASSES = dict(
    zip(
        CLASSES,
        [AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForMaskedLM],
        strict=True,
    )
)
SHAPES = {
    "even": {},
    "uneven": {"heads_per_layer": [4, 1, 3], "intermediate_sizes": [48, 5, 20]},
    "factorised": {"embedding_size": 12},
    "sinusoidal": {"position_embedding_type": "sinusoidal"},
    "head_dim": {"head_dim": 10},
    "no token types": {"type_vocab_size": 0},
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "dull", "film"]


def tiny(model_class=TKDForSequenceClassification, seed=0, **fields):
    """A tiny model in evaluation mode, with weights large enough that differences would show."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 24, "num_labels": 3, "initializer_range": 0.2}
    return model_class(TKDConfig(**shape | fields)).eval()


def sentence(length, batch=1, seed=0):
    return torch.randint(5, 60, (batch, length), generator=torch.Generator().manual_seed(seed))


def padded(ids, left, right):
    """The same sentence with padding on either side, and its mask."""
    mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
    return {"input_ids": torch.nn.functional.pad(ids, (left, right)), "attention_mask": mask}


def assert_same_weights(one, other):
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


# --- padding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("left", "right"), [(0, 6), (6, 0), (2, 3)])
def test_padding_changes_nothing(shape, attention, left, right):
    ids = sentence(7)
    for model_class in CLASSES:
        model = tiny(model_class, **SHAPES[shape])
        model.set_attn_implementation(attention)
        with torch.no_grad():
            alone = model(ids)[0]
            together = model(**padded(ids, left, right))[0]
        if model_class is not TKDForSequenceClassification:
            together = together[:, left : left + 7]
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_logits_do_not_depend_on_the_batch():
    model = tiny()
    one, other = sentence(4, seed=1), sentence(9, seed=2)
    batch = {
        "input_ids": torch.cat((padded(one, 5, 0)["input_ids"], other)),
        "attention_mask": torch.cat((padded(one, 5, 0)["attention_mask"], torch.ones_like(other))),
    }
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits[:1], model(one).logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(**batch).logits[1:], model(other).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple", [1, 16])
def test_leaving_padding_out_changes_neither_answers_nor_gradients(shape, attention, side, multiple):
    lengths = torch.tensor([9, 2, 1, 5])
    mask = (torch.arange(9) < lengths[:, None]).long()
    inputs = {"input_ids": sentence(9, batch=4) * mask, "attention_mask": mask}
    inputs = {name: value.flip(1) if side == "left" else value for name, value in inputs.items()}
    for model_class in CLASSES:
        packed, seen = (
            tiny(model_class, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SHAPES[shape]).train()
            for _ in range(2)
        )
        packed.base_model.create_packing = lambda mask: Packing(mask, multiple)
        seen.base_model.layers[1].register_forward_hook(lambda *_: None)  # who looks inside sees the batch's shape
        answers = []
        for model in (packed, seen):
            model.set_attn_implementation(attention)
            answer = model(**inputs)[0]
            answers.append(
                answer if model_class is TKDForSequenceClassification else answer[inputs["attention_mask"] == 1]
            )
            answers[-1].square().sum().backward()
        torch.testing.assert_close(*answers, rtol=0, atol=1e-5)
        for (name, one), other in zip(packed.named_parameters(), seen.parameters(), strict=True):
            scale = max(1.0, other.grad.abs().max().item())
            torch.testing.assert_close(one.grad / scale, other.grad / scale, rtol=0, atol=1e-5, msg=name)


def products(model, inputs, operation="aten.addmm") -> int:
    """The arithmetic of matrix products outside attention, or in it (`aten.bmm`)."""
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(**inputs)
    return {str(name): count for name, count in counted.get_flop_counts()["Global"].items()}[operation]


def test_padding_costs_no_arithmetic_outside_attention():
    model, one, batch = tiny(), {"input_ids": sentence(4)}, padded(sentence(4), 0, 4)
    assert products(model, one) == products(model, batch)
    assert products(model, one, "aten.bmm") < products(model, batch, "aten.bmm")


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16, "autocast"])
def test_in_half_precision_there_are_few_sizes_of_products(half):
    """Of 65 and of 128 tokens in eight texts they are the same, without padding; in float32 they are what they are."""

    def of(model, tokens):
        lengths = torch.full((8,), tokens // 8) + (torch.arange(8) < tokens % 8)
        mask = (torch.arange(24) < lengths[:, None]).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast" and model is other):
            return products(model, {"input_ids": sentence(24, batch=8), "attention_mask": mask})

    model, other = tiny(), tiny() if half == "autocast" else tiny().to(half)
    assert of(model, 65) < of(model, 128) == of(other, 128) == of(other, 65)
    assert of(other, 129) == of(other, 192) > of(other, 128)  # of which none is left out: all are real


@pytest.mark.parametrize("inputs", [{"input_ids": sentence(9)}, padded(sentence(9), 3, 4)])
def test_a_label_of_a_text_asks_the_last_layer_for_one_token(inputs):
    """By hand: of nine tokens, eight queries, mixed values and feed-forwards are not computed."""
    model = tiny()
    alone = products(model, inputs)
    model.tkd.layers[0].register_forward_hook(lambda *_: None)  # who looks inside sees all tokens, without padding here
    all_tokens = products(model, {"input_ids": sentence(9)})
    width, inner = 32, 48
    assert all_tokens - alone == 8 * 2 * (2 * width * width + 2 * width * inner)


def test_whoever_asks_for_hidden_states_gets_those_of_all_tokens():
    model, ids = tiny(), sentence(6, batch=2)
    with torch.no_grad():
        before, seen = model(ids), model(ids, output_hidden_states=True)
    assert [state.shape[1] for state in seen.hidden_states] == [6] * (1 + len(model.tkd.layers))
    torch.testing.assert_close(before.logits, seen.logits, rtol=0, atol=1e-6)


def test_a_row_of_padding_alone_does_not_disturb_the_others():
    model, inputs = tiny(), padded(sentence(5, batch=2), 0, 2)
    inputs["attention_mask"][1] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits[:1], model(inputs["input_ids"][:1, :5]).logits)


def test_positions_and_token_types_given_once_for_all_rows():
    model, inputs = tiny(), padded(sentence(5, batch=2), 0, 3)
    ids = {"position_ids": torch.arange(8)[None], "token_type_ids": torch.ones(1, 8, dtype=torch.long)}
    whole = {name: value.expand(2, 8) for name, value in ids.items()}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs, **ids).logits, model(**inputs, **whole).logits)


def test_a_boolean_mask_is_a_mask():
    model, inputs = tiny(), padded(sentence(5), 3, 0)
    boolean = inputs | {"attention_mask": inputs["attention_mask"].bool()}
    with torch.no_grad():
        torch.testing.assert_close(model(**boolean).logits, model(**inputs).logits)


def test_token_types_count_unless_there_are_none():
    ids, types = sentence(6), torch.tensor([[0, 0, 0, 1, 1, 1]])
    for type_vocab_size in (2, 0):
        model = tiny(type_vocab_size=type_vocab_size)
        with torch.no_grad():
            same = torch.allclose(model(ids).logits, model(ids, token_type_ids=types).logits)
        assert same == (type_vocab_size == 0)


def test_positions_count():
    for kind in ("learned", "sinusoidal"):
        model = tiny(TKDModel, position_embedding_type=kind)
        ids = torch.full((1, 4), 7)  # the same word everywhere: only positions tell the tokens apart
        with torch.no_grad():
            states = model(ids).last_hidden_state[0]
        assert not torch.allclose(states[0], states[1], atol=1e-3)


def test_sinusoidal_positions_are_those_of_the_paper():
    waves = sinusoidal_positions(torch.tensor([[0, 3]]), 4)[0]
    angles = torch.tensor([3.0, 3 / 10000**0.5])
    torch.testing.assert_close(waves[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(waves[1], torch.stack((angles.sin(), angles.cos()), dim=-1).flatten())


# --- attention, checkpointing, losses -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_eager_is_sdpa(shape):
    eager, sdpa = tiny(**SHAPES[shape]), tiny(**SHAPES[shape])
    eager.set_attn_implementation("eager")
    sdpa.set_attn_implementation("sdpa")
    inputs = padded(sentence(7, batch=2), 3, 0)
    with torch.no_grad():
        torch.testing.assert_close(eager(**inputs).logits, sdpa(**inputs).logits, rtol=0, atol=1e-5)


def test_attentions_and_hidden_states_have_the_shape_of_their_layer():
    model = tiny(heads_per_layer=[4, 1, 3])
    model.set_attn_implementation("eager")
    outputs = model(sentence(5), output_attentions=True, output_hidden_states=True)
    assert [tuple(layer.shape) for layer in outputs.attentions] == [(1, heads, 5, 5) for heads in (4, 1, 3)]
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(1, 5, 32)] * 4


def test_gradient_checkpointing_changes_neither_loss_nor_gradient():
    plain, checkpointed = (tiny(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train() for _ in range(2))
    # newer versions renamed it, and warn about the old name
    getattr(checkpointed, "activation_checkpointing_enable", checkpointed.gradient_checkpointing_enable)()
    inputs = padded(sentence(6, batch=2), 2, 0) | {"labels": torch.tensor([0, 2])}
    losses = [model(**inputs).loss for model in (plain, checkpointed)]
    torch.testing.assert_close(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


LOSSES = {
    "single_label_classification": torch.nn.functional.cross_entropy,
    "multi_label_classification": torch.nn.functional.binary_cross_entropy_with_logits,
    "regression": lambda logits, labels: torch.nn.functional.mse_loss(logits[:, 0], labels),
}


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        ("single_label_classification", 3, torch.tensor([0, 2])),
        ("multi_label_classification", 3, torch.tensor([[1.0, 0, 1], [0, 0, 1]])),
        ("regression", 1, torch.tensor([0.5, -1.5])),
    ],
)
def test_problem_types(problem_type, num_labels, labels):
    for given in (None, problem_type):  # inferred from the labels, or told
        model = tiny(num_labels=num_labels, problem_type=given)
        outputs = model(sentence(5, batch=2), labels=labels)
        torch.testing.assert_close(outputs.loss, LOSSES[problem_type](outputs.logits, labels))
        assert model.config.problem_type == problem_type


@pytest.mark.parametrize("model_class", [TKDForTokenClassification, TKDForMaskedLM])
def test_tokens_labelled_minus_100_do_not_count(model_class):
    model, ids = tiny(model_class), sentence(5)
    labels = torch.tensor([[1, -100, 2, -100, 0]])
    outputs = model(ids, labels=labels)
    kept = labels[0] >= 0
    expected = torch.nn.functional.cross_entropy(outputs.logits[0][kept], labels[0][kept])
    torch.testing.assert_close(outputs.loss, expected)


def test_masked_lm_decoder_shares_the_word_embeddings(tmp_path):
    for fields in ({}, {"embedding_size": 12}):
        model = tiny(TKDForMaskedLM, **fields)
        model.save_pretrained(tmp_path)
        for tied in (model, TKDForMaskedLM.from_pretrained(tmp_path)):
            assert tied.decoder.weight is tied.tkd.embeddings.word_embeddings.weight
    untied = tiny(TKDForMaskedLM, tie_word_embeddings=False)
    assert untied.decoder.weight is not untied.tkd.embeddings.word_embeddings.weight


def test_masked_lm_predicts_only_where_it_is_asked_to():
    model, ids = tiny(TKDForMaskedLM), sentence(5, batch=2)
    mask = torch.tensor([[False, True, False, False, True], [True, False, False, False, False]])
    labels = torch.where(mask, ids, -100)
    every, selected = model(ids, labels=labels), model(ids, labels=labels, prediction_mask=mask)
    torch.testing.assert_close(selected.logits, every.logits[mask])
    torch.testing.assert_close(selected.loss, every.loss)
    assert model(ids, prediction_mask=mask).loss is None


def test_no_sequence_head_takes_weights_of_the_masked_lm_head(tmp_path):
    tiny(TKDForMaskedLM).save_pretrained(tmp_path)
    _, loading = TKDForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(loading["missing_keys"]) == {"dense.weight", "dense.bias", "classifier.weight", "classifier.bias"}


def test_a_text_that_is_too_long_says_so():
    with pytest.raises(ValueError, match=r"25 tokens is longer than max_position_embeddings=24; truncate it"):
        tiny()(sentence(25))
    tiny(position_embedding_type="sinusoidal")(sentence(25))  # has no longest sequence


def test_exactly_one_kind_of_input():
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        tiny()()


# --- saved folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_head_round_trips_through_its_auto_class(shape, tmp_path):
    inputs = padded(sentence(6), 2, 0)
    for model_class, auto_class in AUTO_CLASSES.items():
        model = tiny(model_class, **SHAPES[shape])
        folder = tmp_path / model_class.__name__
        model.save_pretrained(folder)
        again = auto_class.from_pretrained(folder)
        assert type(again) is model_class
        assert_same_weights(model, again)
        with torch.no_grad():
            torch.testing.assert_close(again(**inputs)[0], model(**inputs)[0], rtol=0, atol=1e-6)
    assert type(AutoConfig.from_pretrained(folder)) is TKDConfig


def test_a_folder_carries_the_source_files(tmp_path):
    tiny().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {"configuration_tkd.py", "layers_tkd.py", "modeling_tkd.py"}


def test_a_student_opens_as_a_bare_encoder(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    assert_same_weights(AutoModel.from_pretrained(tmp_path), model.tkd)


@pytest.fixture
def text_folder(tmp_path):
    """A student and a tokenizer of nine words, saved as a user would."""
    tokenizer = Tokenizer(models.WordLevel({word: code for code, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    folder = tmp_path / "student"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **special).save_pretrained(folder)
    tiny(num_labels=2, id2label={0: "negative", 1: "positive"}).save_pretrained(folder)
    return folder


def test_pipeline_from_a_folder(text_folder):
    classify = pipeline("text-classification", model=str(text_folder))
    texts = ["a fine film", "dull"]
    alone = [classify(text)[0] for text in texts]
    assert {answer["label"] for answer in alone} <= {"negative", "positive"}
    for one, other in zip(alone, classify(texts, batch_size=2), strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


WITHOUT_THE_PACKAGE = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tkd_hf":
            raise ModuleNotFoundError("tkd_hf is not installed here")

sys.meta_path.insert(0, Block())
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

folder, saved_again = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(saved_again)
again = AutoModelForSequenceClassification.from_pretrained(saved_again, trust_remote_code=True)
assert "tkd_hf" not in sys.modules
print(type(model).__module__, type(model).__name__, type(encoder).__name__)
print(again(torch.tensor([[2, 5, 6, 3]])).logits.tolist())
"""


def test_remote_code_needs_no_package(tmp_path):
    student = tiny(heads_per_layer=[4, 1, 3])
    student.save_pretrained(tmp_path / "student")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path / "student"), str(tmp_path / "again")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names, logits = done.stdout.splitlines()[-2:]
    module, model_class, encoder_class = names.split()
    assert module.startswith("transformers_modules.")
    assert (model_class, encoder_class) == ("TKDForSequenceClassification", "TKDModel")
    here = student(torch.tensor([[2, 5, 6, 3]])).logits.tolist()
    torch.testing.assert_close(torch.tensor(json.loads(logits)), torch.tensor(here), rtol=0, atol=1e-5)
