"""Conversion: equal logits for every architecture and head, and back to a stock bert."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from tkd_hf import (
    DistillationTrainer,
    TKDConfig,
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
    register_architecture,
    student_from_teacher,
)
from tkd_hf.core.errors import InputError
from tkd_hf.models.architectures import ARCHITECTURES
from tkd_hf.models.conversion import tkd_config_from, tkd_state_dict_from, to_bert, to_padding_free, to_tkd

from ..factories import TEXTS, arguments


SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,  # large, so that differences show
    "num_labels": 3,
}
DISTILBERT_SIZES = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "activation": "relu"}
TEACHERS = {
    "bert": lambda **fields: BertConfig(**SIZES | {"layer_norm_eps": 1e-5} | fields),
    "roberta": lambda **fields: RobertaConfig(**SIZES | {"type_vocab_size": 1} | fields),
    "distilbert": lambda **fields: DistilBertConfig(
        **{name: SIZES[name] for name in ("vocab_size", "max_position_embeddings", "initializer_range", "num_labels")}
        | DISTILBERT_SIZES
        | fields
    ),
    "electra": lambda **fields: ElectraConfig(**SIZES | {"embedding_size": 12} | fields),
    "electra, not factorised": lambda **fields: ElectraConfig(**SIZES | {"embedding_size": 32} | fields),
}
HEADS = {
    AutoModel: TKDModel,
    AutoModelForSequenceClassification: TKDForSequenceClassification,
    AutoModelForTokenClassification: TKDForTokenClassification,
    AutoModelForMaskedLM: TKDForMaskedLM,
}


def randomised(model, seed=0):
    """Set all weights at random, also biases and LayerNorms, so that a weight that is not converted shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def batch(pad_token_id):
    """Two texts, the second padded on the right, as bert gives other logits with padding on the left."""
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = pad_token_id, 0
    return {"input_ids": ids, "attention_mask": mask}


def assert_equal_logits(model, converted):
    inputs = batch(model.config.pad_token_id)
    with torch.no_grad():
        logits, converted_logits = model(**inputs)[0], converted(**inputs)[0]
    if logits.dim() == 3:  # per token: the values at padding are meaningless
        mask = inputs["attention_mask"].bool()
        logits, converted_logits = logits[mask], converted_logits[mask]
    torch.testing.assert_close(converted_logits, logits, rtol=0, atol=1e-5)
    assert logits.std() > 0.01  # otherwise equality proves little


def assert_nothing_shared(model, converted):
    pointers = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert pointers.isdisjoint(tensor.data_ptr() for tensor in converted.state_dict().values())


@pytest.mark.parametrize("auto_class", HEADS, ids=lambda auto_class: auto_class.__name__)
@pytest.mark.parametrize("architecture", TEACHERS)
def test_conversion_keeps_the_logits_of_every_architecture_and_head(architecture, auto_class):
    teacher = randomised(auto_class.from_config(TEACHERS[architecture]()))
    converted = to_tkd(teacher)
    assert type(converted) is HEADS[auto_class]
    assert_equal_logits(teacher, converted)
    assert_nothing_shared(teacher, converted)
    assert not converted.training


def test_converted_masked_lm_still_ties_its_decoder():
    converted = to_tkd(randomised(AutoModelForMaskedLM.from_config(TEACHERS["bert"]())))
    assert converted.decoder.weight is converted.tkd.embeddings.word_embeddings.weight


def test_conversion_keeps_logits_with_token_types():
    teacher = randomised(AutoModelForSequenceClassification.from_config(TEACHERS["bert"]()))
    inputs = batch(0) | {"token_type_ids": torch.tensor([[0] * 4 + [1] * 5] * 2)}
    with torch.no_grad():
        torch.testing.assert_close(to_tkd(teacher)(**inputs).logits, teacher(**inputs).logits, rtol=0, atol=1e-5)


def test_conversion_keeps_labels_problem_type_dtype_and_mode():
    config = TEACHERS["bert"](id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}, num_labels=2)
    config.problem_type = "single_label_classification"
    teacher = AutoModelForSequenceClassification.from_config(config).to(torch.bfloat16).train()
    converted = to_tkd(teacher)
    assert converted.config.id2label == {0: "no", 1: "yes"}
    assert converted.config.problem_type == "single_label_classification"
    assert converted.dtype == torch.bfloat16
    assert converted.training


def test_conversion_drops_the_unused_positions_of_roberta():
    config = TEACHERS["roberta"]()
    assert tkd_config_from(config).max_position_embeddings == 24 - (config.pad_token_id + 1)


def test_converting_a_tkd_copies_it():
    model = randomised(TKDForSequenceClassification(TKDConfig(**SIZES, heads_per_layer=[4, 1])))
    assert tkd_config_from(model.config).to_dict() == model.config.to_dict()
    assert tkd_state_dict_from(model).keys() == model.state_dict().keys()
    assert_equal_logits(model, to_tkd(model))
    assert_nothing_shared(model, to_tkd(model))


def test_models_without_a_counterpart_in_tkd_are_refused():
    with pytest.raises(ValueError, match="model_type='gpt2' does not convert to TKD, only bert, roberta"):
        tkd_config_from(GPT2Config())
    with pytest.raises(ValueError, match="BertForQuestionAnswering has no counterpart in TKD"):
        to_tkd(BertForQuestionAnswering(TEACHERS["bert"]()))
    with pytest.raises(ValueError, match="is_decoder=True"):
        tkd_config_from(TEACHERS["bert"](is_decoder=True))
    with pytest.raises(ValueError, match="always uses gelu, but TKD's uses hidden_act='relu'"):
        to_tkd(AutoModelForMaskedLM.from_config(TEACHERS["roberta"](hidden_act="relu")))


# --- back to bert ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tkd_class", HEADS.values(), ids=lambda tkd_class: tkd_class.__name__)
@pytest.mark.parametrize("type_vocab_size", [2, 0])
def test_even_tkd_converts_to_a_stock_bert_with_equal_logits(tkd_class, type_vocab_size, tmp_path):
    model = randomised(tkd_class(TKDConfig(**SIZES, type_vocab_size=type_vocab_size)))
    exported = to_bert(model)
    assert exported.config.model_type == "bert"
    assert_equal_logits(model, exported)
    assert_nothing_shared(model, exported)
    exported.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))  # a stock model needs no remote code
    assert_equal_logits(model, type(exported).from_pretrained(tmp_path))


def test_bert_converted_to_tkd_and_back_has_the_same_weights():
    teacher = randomised(BertForSequenceClassification(TEACHERS["bert"]()))
    converted = to_bert(to_tkd(teacher))
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(converted.state_dict()[name], tensor, rtol=0, atol=0)


def test_layers_listed_with_equal_widths_convert_to_bert():
    model = randomised(TKDModel(TKDConfig(**SIZES, heads_per_layer=[4, 4], intermediate_sizes=[7, 7])))
    assert to_bert(model).config.intermediate_size == 7
    assert_equal_logits(model, to_bert(model))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"position_embedding_type": "sinusoidal"}, "position_embedding_type='sinusoidal'"),
        ({"embedding_size": 12}, "embedding_size=12 differs from hidden_size=32"),
        ({"heads_per_layer": [4, 2]}, r"heads_per_layer=\[4, 2\] is uneven"),
        ({"head_dim": 10}, "4 heads of head_dim=10 do not add up to hidden_size=32"),
        ({"heads_per_layer": [2, 2]}, "2 heads of head_dim=8 do not add up to hidden_size=32"),
        ({"intermediate_sizes": [48, 7]}, r"intermediate_sizes=\[48, 7\] is uneven"),
        ({"pooler_act": "relu"}, r"pooler_act='relu' \(bert has 'tanh'\)"),
    ],
)
def test_shapes_that_bert_cannot_have_are_refused_with_the_reason(fields, reason):
    with pytest.raises(ValueError, match=f"bert cannot have this shape: {reason}.*Publish it as TKD"):
        to_bert(TKDForSequenceClassification(TKDConfig(**SIZES | fields)))


def test_pooler_activation_does_not_keep_an_encoder_from_becoming_a_bert():
    encoder = randomised(TKDModel(TKDConfig(**SIZES, pooler_act="relu")))
    assert_equal_logits(encoder, to_bert(encoder))


@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
@pytest.mark.parametrize("architecture", TEACHERS)
def test_padding_free_model_shares_weights_and_gives_the_same_logits(architecture, auto_class):
    model = randomised(auto_class.from_config(TEACHERS[architecture]()))
    inputs = batch(model.config.pad_token_id)
    fast, mask = to_padding_free(model), inputs["attention_mask"].bool()
    assert type(fast) is HEADS[auto_class]
    storages = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    assert all(weight.untyped_storage().data_ptr() in storages for weight in fast.parameters())
    with torch.no_grad():
        expected, logits = model(**inputs).logits, fast(**inputs).logits
    if auto_class is AutoModelForTokenClassification:  # logits at padding are meaningless
        expected, logits = expected[mask], logits[mask]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_models_with_hooks_patches_adapters_or_own_classes_are_not_made_padding_free():
    class SubclassedBert(BertForSequenceClassification):
        """A class outside transformers, whose forward may differ."""

    def build(model_class=BertForSequenceClassification):
        return model_class(TEACHERS["bert"]())

    hooked, patched, adapted = build(), build(), build()
    hooked.bert.encoder.layer[0].register_forward_hook(lambda *_: None)
    patched.forward = patched.forward
    inject_adapter_in_model(LoraConfig(target_modules=["query"]), adapted)
    for model in (hooked, patched, adapted, build(SubclassedBert), build(BertForQuestionAnswering)):
        assert to_padding_free(model) is model


# --- an architecture from outside the package ------------------------------------------------------------------------


class NookConfig(PreTrainedConfig):
    model_type = "nook"
    attribute_map = {"hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads"}

    def __init__(self, vocab_size=15, width=16, depth=3, heads=2, inner=24, positions=32, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.width, self.depth, self.heads = vocab_size, width, depth, heads
        self.inner, self.positions = inner, positions


class NookBlock(nn.Module):
    """BERT's layer without dropout, under other names."""

    def __init__(self, config):
        super().__init__()
        self.heads = config.heads
        self.ask, self.match, self.carry, self.mix = (nn.Linear(config.width, config.width) for _ in range(4))
        self.up, self.down = nn.Linear(config.width, config.inner), nn.Linear(config.inner, config.width)
        self.mixed_norm, self.fed_norm = (nn.LayerNorm(config.width, eps=1e-6) for _ in range(2))

    def forward(self, states, mask):
        projected = (project(states) for project in (self.ask, self.match, self.carry))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        states = self.mixed_norm(states + self.mix(mixed.transpose(1, 2).flatten(2)))
        return self.fed_norm(states + self.down(nn.functional.gelu(self.up(states))))


class NookModel(PreTrainedModel):
    config_class, base_model_prefix = NookConfig, "nook"

    def __init__(self, config):
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.places = nn.Embedding(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.blocks = nn.ModuleList(NookBlock(config) for _ in range(config.depth))
        self.post_init()

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        states = self.norm(self.tokens(input_ids) + self.places.weight[: input_ids.shape[1]])
        all_states = [states]
        for block in self.blocks:
            all_states.append(block(all_states[-1], attention_mask[:, None, None].bool()))
        return BaseModelOutput(all_states[-1], tuple(all_states) if output_hidden_states else None)


class NookForSequenceClassification(PreTrainedModel):
    config_class, base_model_prefix = NookConfig, "nook"

    def __init__(self, config):
        super().__init__(config)
        self.nook = NookModel(config)
        self.read, self.score = nn.Linear(config.width, config.width), nn.Linear(config.width, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        outputs = self.nook(input_ids, attention_mask, output_hidden_states)
        logits = self.score(nn.functional.relu(self.read(outputs.last_hidden_state[:, 0])))
        return SequenceClassifierOutput(logits=logits, hidden_states=outputs.hidden_states)


@pytest.fixture
def architecture(extension):
    """Register the architecture of docs/extending.md, which describes the classes above."""
    return extension("Add a teacher architecture").NOOK


@pytest.fixture
def nook(architecture):
    AutoConfig.register("nook", NookConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(NookConfig, NookForSequenceClassification, exist_ok=True)
    return randomised(NookForSequenceClassification(NookConfig(id2label={0: "negative", 1: "positive"})))


def test_an_architecture_from_outside_gives_students_and_features(nook, tokenizer, features, tmp_path):
    """One object and one registration: a student that is a full copy agrees in every objective, so its loss is 0."""
    nook.save_pretrained(tmp_path / "teacher")
    student = student_from_teacher(str(tmp_path / "teacher"))
    assert student.init_report.initialised == ()
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids")
    with torch.no_grad():
        expected = nook(**inputs).logits
        torch.testing.assert_close(student(**inputs).logits, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01
    assert student_from_teacher(nook, num_hidden_layers=1).init_report.layers == (2,)
    args = arguments(tmp_path, objectives={"hidden": 1.0, "relations": 1.0, "attention": 1.0}, layer_map=[0, 1, 2])
    trainer = DistillationTrainer(
        student, args, teacher_model=nook, train_dataset=features, eval_dataset=features, processing_class=tokenizer
    )
    metrics = trainer.evaluate()
    for objective in ("hidden", "relations", "attention"):
        assert metrics[f"eval_loss_{objective}"] == pytest.approx(0, abs=1e-5)


def test_an_architecture_with_missing_or_unknown_modules_is_not_registered(architecture):
    del ARCHITECTURES["nook"]
    incomplete = {name: tkd_name for name, tkd_name in architecture.encoder.items() if name != "blocks.#.ask"}
    with pytest.raises(InputError, match=r"encoder of nook lacks layers\.#\.attention\.query; TKD has"):
        register_architecture(replace(architecture, encoder=incomplete))
    with pytest.raises(InputError, match="ForMaskedLM of nook lacks decoder, norm, transform and names unknown head"):
        register_architecture(replace(architecture, heads={"ForMaskedLM": {"lm": "head"}}))
    with pytest.raises(InputError, match="TKD has no head 'ForChess' for nook"):
        register_architecture(replace(architecture, heads={"ForChess": {}}))
    with pytest.raises(InputError, match="model_type='bert' is registered already"):
        register_architecture(replace(architecture, model_type="bert"))
    assert "nook" not in ARCHITECTURES


def test_a_head_that_an_architecture_does_not_name_is_refused(architecture):
    with pytest.raises(InputError, match="nook has no ForMaskedLM in the table of TKD, only ForSequenceClassification"):
        architecture.module_names("ForMaskedLM", "nook")
