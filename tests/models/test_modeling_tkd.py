"""TKD's configuration is checked, and its models compute what BERT's computes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tkd_hf import TKDConfig, TKDForMaskedLM, TKDForSequenceClassification, TKDForTokenClassification, TKDModel
from tkd_hf.models.layers_tkd import Packing, sinusoidal_positions


CLASSES = [TKDModel, TKDForSequenceClassification, TKDForTokenClassification, TKDForMaskedLM]
SHAPES = {
    "even": {},
    "uneven": {"heads_per_layer": [4, 1, 3], "intermediate_sizes": [48, 5, 20]},
    "factorised": {"embedding_size": 12},
    "sinusoidal": {"position_embedding_type": "sinusoidal"},
    "head_dim": {"head_dim": 10},
    "no token types": {"type_vocab_size": 0},
}


def tiny(model_class=TKDForSequenceClassification, seed=0, **fields):
    """Build a tiny model in evaluation mode, with weights large enough that differences show."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 24, "num_labels": 3, "initializer_range": 0.2}
    return model_class(TKDConfig(**shape | fields)).eval()


def sentence(length, batch=1, seed=0):
    return torch.randint(5, 60, (batch, length), generator=torch.Generator().manual_seed(seed))


def padded(ids, left, right):
    """Pad a sentence on either side, and return it with its mask."""
    mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
    return {"input_ids": torch.nn.functional.pad(ids, (left, right)), "attention_mask": mask}


# --- padding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("left", "right"), [(0, 6), (6, 0), (2, 3)])
def test_padding_changes_no_result_of_real_tokens(shape, attention, left, right):
    ids = sentence(7)
    for model_class in CLASSES:
        model = tiny(model_class, **SHAPES[shape])
        model.set_attn_implementation(attention)
        with torch.no_grad():
            expected = model(ids)[0]
            outputs = model(**padded(ids, left, right))[0]
        if model_class is not TKDForSequenceClassification:
            outputs = outputs[:, left : left + 7]
        torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)


def test_logits_of_a_text_do_not_depend_on_its_batch():
    model = tiny()
    short, long = sentence(4, seed=1), sentence(9, seed=2)
    batch = {
        "input_ids": torch.cat((padded(short, 5, 0)["input_ids"], long)),
        "attention_mask": torch.cat((padded(short, 5, 0)["attention_mask"], torch.ones_like(long))),
    }
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits[:1], model(short).logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(**batch).logits[1:], model(long).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple", [1, 16])
def test_packing_changes_neither_outputs_nor_gradients(shape, attention, side, multiple):
    lengths = torch.tensor([9, 2, 1, 5])
    mask = (torch.arange(9) < lengths[:, None]).long()
    inputs = {"input_ids": sentence(9, batch=4) * mask, "attention_mask": mask}
    inputs = {name: value.flip(1) if side == "left" else value for name, value in inputs.items()}
    for model_class in CLASSES:
        packed, unpacked = (
            tiny(model_class, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SHAPES[shape]).train()
            for _ in range(2)
        )
        packed.base_model.create_packing = lambda mask: Packing(mask, multiple)
        unpacked.base_model.compute_all_tokens = True
        outputs = []
        for model in (packed, unpacked):
            model.set_attn_implementation(attention)
            output = model(**inputs)[0]
            if model_class is not TKDForSequenceClassification:
                output = output[inputs["attention_mask"] == 1]
            output.square().sum().backward()
            outputs.append(output)
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
        for (name, parameter), unpacked_parameter in zip(packed.named_parameters(), unpacked.parameters(), strict=True):
            gradient, expected = parameter.grad, unpacked_parameter.grad
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(gradient / scale, expected / scale, rtol=0, atol=1e-5, msg=name)


def count_flops(model, inputs, operation="aten.addmm") -> int:
    """Count the operations of matrix products outside attention (`aten.addmm`) or inside it (`aten.bmm`)."""
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}[operation]


def test_padding_costs_no_operations_outside_attention():
    model, unpadded, batch = tiny(), {"input_ids": sentence(4)}, padded(sentence(4), 0, 4)
    assert count_flops(model, unpadded) == count_flops(model, batch)
    assert count_flops(model, unpadded, "aten.bmm") < count_flops(model, batch, "aten.bmm")


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, "autocast"])
def test_half_precision_rounds_packed_batches_up_to_multiples_of_64_tokens(precision):
    full, half = tiny(), tiny() if precision == "autocast" else tiny().to(precision)

    def flops_of_eight_texts(model, tokens):
        lengths = torch.full((8,), tokens // 8) + (torch.arange(8) < tokens % 8)
        mask = (torch.arange(24) < lengths[:, None]).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast" and model is half):
            return count_flops(model, {"input_ids": sentence(24, batch=8), "attention_mask": mask})

    assert flops_of_eight_texts(full, 65) < flops_of_eight_texts(full, 128)
    assert flops_of_eight_texts(half, 65) == flops_of_eight_texts(half, 128) == flops_of_eight_texts(full, 128)
    # 192 tokens fill the batch, so that nothing is removed
    assert flops_of_eight_texts(half, 129) == flops_of_eight_texts(half, 192) > flops_of_eight_texts(half, 128)


@pytest.mark.parametrize("inputs", [{"input_ids": sentence(9)}, padded(sentence(9), 3, 4)])
def test_sequence_classifier_computes_its_last_layer_for_one_token(inputs):
    """Derived by hand: for eight of nine tokens it saves the query, attention output and feed-forward products."""
    model = tiny()
    flops = count_flops(model, inputs)
    model.tkd.compute_all_tokens = True
    flops_of_all_tokens = count_flops(model, {"input_ids": sentence(9)})
    hidden_size, intermediate_size = 32, 48
    assert flops_of_all_tokens - flops == 8 * 2 * (2 * hidden_size**2 + 2 * hidden_size * intermediate_size)


def test_requested_hidden_states_contain_all_tokens_and_leave_logits_unchanged():
    model, ids = tiny(), sentence(6, batch=2)
    with torch.no_grad():
        plain, outputs = model(ids), model(ids, output_hidden_states=True)
    assert [state.shape[1] for state in outputs.hidden_states] == [6] * (1 + len(model.tkd.layers))
    torch.testing.assert_close(plain.logits, outputs.logits, rtol=0, atol=1e-6)


def test_a_row_without_real_tokens_does_not_affect_the_other_rows():
    model, inputs = tiny(), padded(sentence(5, batch=2), 0, 2)
    inputs["attention_mask"][1] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits[:1], model(inputs["input_ids"][:1, :5]).logits)


def test_a_single_row_of_positions_and_token_types_applies_to_all_rows():
    model, inputs = tiny(), padded(sentence(5, batch=2), 0, 3)
    ids = {"position_ids": torch.arange(8)[None], "token_type_ids": torch.ones(1, 8, dtype=torch.long)}
    expanded = {name: value.expand(2, 8) for name, value in ids.items()}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs, **ids).logits, model(**inputs, **expanded).logits)


def test_boolean_masks_work_as_integer_masks():
    model, inputs = tiny(), padded(sentence(5), 3, 0)
    boolean = inputs | {"attention_mask": inputs["attention_mask"].bool()}
    with torch.no_grad():
        torch.testing.assert_close(model(**boolean).logits, model(**inputs).logits)


def test_token_types_change_logits_unless_the_vocabulary_has_none():
    ids, types = sentence(6), torch.tensor([[0, 0, 0, 1, 1, 1]])
    for type_vocab_size in (2, 0):
        model = tiny(type_vocab_size=type_vocab_size)
        with torch.no_grad():
            same = torch.allclose(model(ids).logits, model(ids, token_type_ids=types).logits)
        assert same == (type_vocab_size == 0)


def test_positions_distinguish_equal_tokens():
    for kind in ("learned", "sinusoidal"):
        model = tiny(TKDModel, position_embedding_type=kind)
        ids = torch.full((1, 4), 7)  # the same word at every position
        with torch.no_grad():
            states = model(ids).last_hidden_state[0]
        assert not torch.allclose(states[0], states[1], atol=1e-3)


def test_sinusoidal_positions_match_the_formula_of_the_paper():
    waves = sinusoidal_positions(torch.tensor([[0, 3]]), 4)[0]
    angles = torch.tensor([3.0, 3 / 10000**0.5])
    torch.testing.assert_close(waves[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(waves[1], torch.stack((angles.sin(), angles.cos()), dim=-1).flatten())


# --- attention, checkpointing, losses -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_eager_and_sdpa_attention_give_the_same_logits(shape):
    eager, sdpa = tiny(**SHAPES[shape]), tiny(**SHAPES[shape])
    eager.set_attn_implementation("eager")
    sdpa.set_attn_implementation("sdpa")
    inputs = padded(sentence(7, batch=2), 3, 0)
    with torch.no_grad():
        torch.testing.assert_close(eager(**inputs).logits, sdpa(**inputs).logits, rtol=0, atol=1e-5)


def test_attentions_and_hidden_states_have_the_shapes_of_uneven_layers():
    model = tiny(heads_per_layer=[4, 1, 3])
    model.set_attn_implementation("eager")
    outputs = model(sentence(5), output_attentions=True, output_hidden_states=True)
    assert [tuple(layer.shape) for layer in outputs.attentions] == [(1, heads, 5, 5) for heads in (4, 1, 3)]
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(1, 5, 32)] * 4


def test_gradient_checkpointing_changes_neither_loss_nor_gradient():
    plain, checkpointed = (tiny(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train() for _ in range(2))
    # newer versions of transformers renamed the method and warn about the old name
    getattr(checkpointed, "activation_checkpointing_enable", checkpointed.gradient_checkpointing_enable)()
    inputs = padded(sentence(6, batch=2), 2, 0) | {"labels": torch.tensor([0, 2])}
    losses = [model(**inputs).loss for model in (plain, checkpointed)]
    torch.testing.assert_close(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    for expected, parameter in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


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
def test_loss_follows_the_problem_type_set_or_inferred_from_labels(problem_type, num_labels, labels):
    for configured in (None, problem_type):
        model = tiny(num_labels=num_labels, problem_type=configured)
        outputs = model(sentence(5, batch=2), labels=labels)
        torch.testing.assert_close(outputs.loss, LOSSES[problem_type](outputs.logits, labels))
        assert model.config.problem_type == problem_type


@pytest.mark.parametrize("model_class", [TKDForTokenClassification, TKDForMaskedLM])
def test_loss_ignores_tokens_labelled_minus_100(model_class):
    model, ids = tiny(model_class), sentence(5)
    labels = torch.tensor([[1, -100, 2, -100, 0]])
    outputs = model(ids, labels=labels)
    labelled = labels[0] >= 0
    expected = torch.nn.functional.cross_entropy(outputs.logits[0][labelled], labels[0][labelled])
    torch.testing.assert_close(outputs.loss, expected)


def test_masked_lm_decoder_shares_the_word_embeddings(tmp_path):
    for fields in ({}, {"embedding_size": 12}):
        model = tiny(TKDForMaskedLM, **fields)
        model.save_pretrained(tmp_path)
        for tied in (model, TKDForMaskedLM.from_pretrained(tmp_path)):
            assert tied.decoder.weight is tied.tkd.embeddings.word_embeddings.weight
    untied = tiny(TKDForMaskedLM, tie_word_embeddings=False)
    assert untied.decoder.weight is not untied.tkd.embeddings.word_embeddings.weight


def test_prediction_mask_selects_the_tokens_that_masked_lm_predicts():
    model, ids = tiny(TKDForMaskedLM), sentence(5, batch=2)
    mask = torch.tensor([[False, True, False, False, True], [True, False, False, False, False]])
    labels = torch.where(mask, ids, -100)
    outputs, selected = model(ids, labels=labels), model(ids, labels=labels, prediction_mask=mask)
    torch.testing.assert_close(selected.logits, outputs.logits[mask])
    torch.testing.assert_close(selected.loss, outputs.loss)
    assert model(ids, prediction_mask=mask).loss is None


def test_sequence_head_takes_no_weights_of_a_masked_lm_head(tmp_path):
    tiny(TKDForMaskedLM).save_pretrained(tmp_path)
    _, loading = TKDForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(loading["missing_keys"]) == {"dense.weight", "dense.bias", "classifier.weight", "classifier.bias"}


def test_too_long_text_is_refused_with_a_hint_unless_positions_are_sinusoidal():
    with pytest.raises(ValueError, match=r"25 tokens is longer than max_position_embeddings=24; truncate it"):
        tiny()(sentence(25))
    tiny(position_embedding_type="sinusoidal")(sentence(25))


def test_model_requires_exactly_one_of_input_ids_and_inputs_embeds():
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        tiny()()


def test_defaults_give_the_shape_of_tkd_nlp():
    config = TKDConfig()
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (12, 8, 512)
    assert (config.embedding_size, config.head_dim) == (512, 64)
    assert config.heads_of(3) == 8
    assert config.intermediate_size_of(3) == 2048


def test_uneven_layers_survive_saving_and_loading(tmp_path):
    config = TKDConfig(
        num_hidden_layers=2, heads_per_layer=[8, 3], intermediate_sizes=[100, 7], embedding_size=64, num_labels=5
    )
    config.save_pretrained(tmp_path)
    loaded = TKDConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert [loaded.heads_of(layer) for layer in (0, 1)] == [8, 3]
    assert [loaded.intermediate_size_of(layer) for layer in (0, 1)] == [100, 7]


def test_embedding_size_and_head_dim_follow_hidden_size_by_default(tmp_path):
    TKDConfig(hidden_size=64).save_pretrained(tmp_path)
    loaded = TKDConfig.from_pretrained(tmp_path)
    assert (loaded.embedding_size, loaded.head_dim) == (64, 8)


def test_auto_map_points_to_own_files_and_never_to_a_source_repository():
    config = TKDConfig(auto_map={"AutoModel": "someone/else--modeling_tkd.TKDModel"})
    assert config.auto_map["AutoModel"] == "modeling_tkd.TKDModel"
    assert len(config.auto_map) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100}, r"hidden_size=100 is not a multiple of num_attention_heads=8; set head_dim"),
        (
            {"num_hidden_layers": 4, "heads_per_layer": [8, 8, 8]},
            r"heads_per_layer has 3 entries but num_hidden_layers=4; give one entry per layer, or omit",
        ),
        ({"num_hidden_layers": 1, "intermediate_sizes": [9, 9]}, r"intermediate_sizes has 2 entries but"),
        ({"num_hidden_layers": 2, "heads_per_layer": [8, 0]}, r"heads_per_layer=\[8, 0\] has an entry below 1"),
        (
            {"embedding_size": 31, "position_embedding_type": "sinusoidal"},
            r"embedding_size=31 is odd, but position_embedding_type='sinusoidal'",
        ),
        ({"num_hidden_layers": 0}, r"num_hidden_layers=0 must be at least 1"),
        ({"num_attention_heads": 0}, r"num_attention_heads=0"),
        ({"type_vocab_size": -1}, r"type_vocab_size=-1 is negative; use 0"),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob=1.0 must be a probability of at least 0 and below 1"),
        (
            {"pad_token_id": 9, "vocab_size": 9},
            r"pad_token_id=9 is outside the vocabulary \(vocab_size=9\); choose an id from 0 to 8",
        ),
        ({"pooler_act": "gilu"}, r"pooler_act='gilu' is not an activation of transformers; use one such as 'gelu'"),
    ],
)
def test_invalid_fields_raise_errors_with_the_values_and_a_hint(fields, message):
    with pytest.raises(ValueError, match=message):
        TKDConfig(**fields)


def test_explicit_head_dim_allows_a_hidden_size_that_heads_do_not_divide():
    assert TKDConfig(hidden_size=100, head_dim=16).head_dim == 16


def test_saving_rejects_a_config_that_was_made_inconsistent_after_creation(tmp_path):
    config = TKDConfig(num_hidden_layers=2, heads_per_layer=[8, 8])
    config.num_hidden_layers = 3
    with pytest.raises(Exception, match="heads_per_layer has 2 entries but num_hidden_layers=3"):
        config.save_pretrained(tmp_path)


@pytest.mark.parametrize("model_class", [TKDForSequenceClassification, TKDForTokenClassification])
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore::UserWarning")
def test_torch_quantizes_the_linear_layers_of_a_student(model_class):
    model = tiny(model_class)
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    inputs = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        torch.testing.assert_close(quantized(inputs).logits, model(inputs).logits, atol=0.2, rtol=0)
