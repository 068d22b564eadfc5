"""Conversion: equal logits from every architecture and head, and back to a stock bert."""

import pytest
import torch
from peft import LoraConfig
from transformers import (
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
    RobertaConfig,
)

from tkd_hf import (
    TKDConfig,
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
)
from tkd_hf.conversion import tkd_config_from, tkd_state_dict_from, to_bert, to_padding_free, to_tkd


SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,  # large, so that a difference would show
    "num_labels": 3,
}
DISTILBERT_SIZES = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "activation": "relu"}
TEACHERS = {
    "bert": lambda **more: BertConfig(**SIZES | {"layer_norm_eps": 1e-5} | more),
    "roberta": lambda **more: RobertaConfig(**SIZES | {"type_vocab_size": 1} | more),
    "distilbert": lambda **more: DistilBertConfig(
        **{k: SIZES[k] for k in ("vocab_size", "max_position_embeddings", "initializer_range", "num_labels")}
        | DISTILBERT_SIZES
        | more
    ),
    "electra": lambda **more: ElectraConfig(**SIZES | {"embedding_size": 12} | more),
    "electra, not factorised": lambda **more: ElectraConfig(**SIZES | {"embedding_size": 32} | more),
}
HEADS = {
    AutoModel: TKDModel,
    AutoModelForSequenceClassification: TKDForSequenceClassification,
    AutoModelForTokenClassification: TKDForTokenClassification,
    AutoModelForMaskedLM: TKDForMaskedLM,
}


def randomised(model, seed=0):
    """Every weight random, biases and LayerNorms too, so that a forgotten one shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def batch(pad_token_id):
    """Two sentences, the second padded on the right (where bert itself is exact)."""
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = pad_token_id, 0
    return {"input_ids": ids, "attention_mask": mask}


def assert_equal_logits(one, other):
    inputs = batch(one.config.pad_token_id)
    with torch.no_grad():
        answers = [model(**inputs)[0] for model in (one, other)]
    if answers[0].dim() == 3:  # a state or logits for each token: those of padding mean nothing
        answers = [answer[inputs["attention_mask"].bool()] for answer in answers]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-5)
    assert answers[0].std() > 0.01  # they are answers


def assert_nothing_shared(one, other):
    pointers = {tensor.data_ptr() for tensor in one.state_dict().values()}
    assert pointers.isdisjoint(tensor.data_ptr() for tensor in other.state_dict().values())


@pytest.mark.parametrize("auto_class", HEADS, ids=lambda auto_class: auto_class.__name__)
@pytest.mark.parametrize("architecture", TEACHERS)
def test_equal_logits(architecture, auto_class):
    teacher = randomised(auto_class.from_config(TEACHERS[architecture]()))
    converted = to_tkd(teacher)
    assert type(converted) is HEADS[auto_class]
    assert_equal_logits(teacher, converted)
    assert_nothing_shared(teacher, converted)
    assert not converted.training


def test_a_masked_lm_is_still_tied():
    converted = to_tkd(randomised(AutoModelForMaskedLM.from_config(TEACHERS["bert"]())))
    assert converted.decoder.weight is converted.tkd.embeddings.word_embeddings.weight


def test_token_types_are_converted():
    teacher = randomised(AutoModelForSequenceClassification.from_config(TEACHERS["bert"]()))
    inputs = batch(0) | {"token_type_ids": torch.tensor([[0] * 4 + [1] * 5] * 2)}
    with torch.no_grad():
        torch.testing.assert_close(to_tkd(teacher)(**inputs).logits, teacher(**inputs).logits, rtol=0, atol=1e-5)


def test_labels_problem_type_dtype_and_mode_are_kept():
    config = TEACHERS["bert"](id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}, num_labels=2)
    config.problem_type = "single_label_classification"
    teacher = AutoModelForSequenceClassification.from_config(config).to(torch.bfloat16).train()
    converted = to_tkd(teacher)
    assert converted.config.id2label == {0: "no", 1: "yes"}
    assert converted.config.problem_type == "single_label_classification"
    assert converted.dtype == torch.bfloat16
    assert converted.training


def test_roberta_loses_the_positions_it_never_uses():
    config = TEACHERS["roberta"]()
    assert tkd_config_from(config).max_position_embeddings == 24 - (config.pad_token_id + 1)


def test_tkd_is_its_own_conversion():
    model = randomised(TKDForSequenceClassification(TKDConfig(**SIZES, heads_per_layer=[4, 1])))
    assert tkd_config_from(model.config).to_dict() == model.config.to_dict()
    assert tkd_state_dict_from(model).keys() == model.state_dict().keys()
    assert_equal_logits(model, to_tkd(model))
    assert_nothing_shared(model, to_tkd(model))


def test_what_does_not_convert_says_so():
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
def test_an_even_tkd_is_a_bert(tkd_class, type_vocab_size, tmp_path):
    model = randomised(tkd_class(TKDConfig(**SIZES, type_vocab_size=type_vocab_size)))
    exported = to_bert(model)
    assert exported.config.model_type == "bert"
    assert_equal_logits(model, exported)
    assert_nothing_shared(model, exported)
    exported.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))  # stock: no code to trust
    assert_equal_logits(model, type(exported).from_pretrained(tmp_path))


def test_there_and_back_again():
    teacher = randomised(BertForSequenceClassification(TEACHERS["bert"]()))
    again = to_bert(to_tkd(teacher))
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_evenly_listed_layers_are_even():
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
def test_a_shape_that_bert_cannot_have(fields, reason):
    with pytest.raises(ValueError, match=f"bert cannot have this shape: {reason}.*Publish it as TKD"):
        to_bert(TKDForSequenceClassification(TKDConfig(**SIZES | fields)))


def test_only_the_sequence_head_has_a_pooler():
    encoder = randomised(TKDModel(TKDConfig(**SIZES, pooler_act="relu")))
    assert_equal_logits(encoder, to_bert(encoder))


@pytest.mark.parametrize("auto_class", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
@pytest.mark.parametrize("architecture", TEACHERS)
def test_a_teacher_that_computes_no_padding_answers_the_same(architecture, auto_class):
    model = randomised(auto_class.from_config(TEACHERS[architecture]()))
    inputs = batch(model.config.pad_token_id)
    fast, mask = to_padding_free(model), inputs["attention_mask"].bool()
    assert type(fast) is HEADS[auto_class]
    shared = {weight.data_ptr() for weight in model.parameters()}
    views = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    assert all(w.data_ptr() in shared or w.untyped_storage().data_ptr() in views for w in fast.parameters())
    with torch.no_grad():
        expected, found = model(**inputs).logits, fast(**inputs).logits
    if auto_class is AutoModelForTokenClassification:  # what it answers at padding says nothing
        expected, found = expected[mask], found[mask]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_teacher_that_something_was_put_into_stays_as_it_is():
    class Own(BertForSequenceClassification):
        """Its forward may be another."""

    def made(kind=BertForSequenceClassification):
        return kind(TEACHERS["bert"]())

    hooked, patched, adapted = made(), made(), made()
    hooked.bert.encoder.layer[0].register_forward_hook(lambda *_: None)
    patched.forward = patched.forward
    adapted.add_adapter(LoraConfig(target_modules=["query"]))
    for model in (hooked, patched, adapted, made(Own), made(BertForQuestionAnswering)):
        assert to_padding_free(model) is model
