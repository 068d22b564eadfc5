"""Students: layer maps, copied and narrowed weights, labels, the initialisation report, and an unchanged teacher."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from tkd_hf import (
    InputError,
    TKDConfig,
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
)
from tkd_hf.models.conversion import to_tkd
from tkd_hf.models.layer_map import LAYER_MAPS, layer_map, uniform_layers
from tkd_hf.models.student import choose_layers, narrow_layer, student_from_teacher


SIZES = {"vocab_size": 40, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 20}
SIZES |= {"num_hidden_layers": 6, "max_position_embeddings": 16, "initializer_range": 0.2}


def bert(seed=0, **fields):
    torch.manual_seed(seed)
    model = BertForSequenceClassification(BertConfig(**SIZES | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # also biases and LayerNorms, which start constant
    return model


def logits(model):
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        return model(ids).logits


def assert_layer_equal(student, index, teacher, layer):
    student_weights = student.tkd.layers[index].state_dict()
    teacher_weights = to_tkd(teacher).tkd.layers[layer].state_dict()
    for name in student_weights:
        torch.testing.assert_close(student_weights[name], teacher_weights[name], rtol=0, atol=0)


# --- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student_layers", "teacher_layers", "layers"),
    [
        (3, 6, [1, 3, 5]),
        (2, 6, [2, 5]),
        (4, 6, [0, 2, 3, 5]),
        (1, 6, [5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (5, 12, [1, 3, 6, 8, 11]),
    ],
)
def test_uniform_layers_are_evenly_spread(student_layers, teacher_layers, layers):
    assert uniform_layers(student_layers, teacher_layers) == layers


def test_uniform_layers_ascend_and_end_in_the_last():
    for teacher_layers in range(1, 25):
        for student_layers in range(1, teacher_layers + 1):
            layers = uniform_layers(student_layers, teacher_layers)
            assert len(layers) == student_layers
            assert layers == sorted(set(layers))
            assert layers[0] >= 0
            assert layers[-1] == teacher_layers - 1


@pytest.mark.parametrize(
    ("choice", "layers"),
    [
        ("uniform", [1, 3, 5, 7, 9, 11]),
        ("last", [6, 7, 8, 9, 10, 11]),
        ("skip", [0, 2, 4, 6, 8, 10]),
        ("0,2,4,7,9,11", [0, 2, 4, 7, 9, 11]),
        ([0, 2, 4, 7, 9, 11], [0, 2, 4, 7, 9, 11]),
        ("[5, 5, 5, 5, 5, 5]", [5, 5, 5, 5, 5, 5]),
    ],
)
def test_layer_map_gives_a_teacher_layer_per_student_layer(choice, layers):
    assert layer_map(choice, 6, 12) == layers


@pytest.mark.parametrize("name", LAYER_MAPS)
def test_named_layer_maps_never_repeat_a_layer_and_use_all_at_equal_depth(name):
    for depth in range(1, 13):
        assert layer_map(name, depth, depth) == list(range(depth))
        assert len(set(layer_map(name, depth, 12))) == depth


@pytest.mark.parametrize(
    ("choice", "depths", "message"),
    [
        ("middle", (2, 4), r"layer_map='middle' is neither uniform, last, skip nor a list"),
        ("1,2,3", (2, 4), r"layer_map='1,2,3' names 3 layers for a student of 2"),
        ("1,4", (2, 4), r"layer_map='1,4' for a teacher of 4 layers; choose layers from 0 to 3"),
        ("-1,2", (2, 4), r"from 0 to 3"),
        ("uniform", (4, 2), r"cannot spread 4 student layers over 2 teacher layers; .* such as 0,0,1,1"),
    ],
)
def test_layer_map_refuses_layers_that_do_not_fit_both_depths(choice, depths, message):
    with pytest.raises(InputError, match=message):
        layer_map(choice, *depths)


@pytest.mark.parametrize(
    ("num_hidden_layers", "layers", "message"),
    [
        (8, None, "num_hidden_layers=8 for a teacher of 6 layers; choose from 1 to 6"),
        (0, None, "num_hidden_layers=0 for a teacher of 6 layers"),
        (2, [1, 3, 5], r"num_hidden_layers=2 but layers=\[1, 3, 5\] has 3"),
        (None, [1, 6], r"layers=\[1, 6\] for a teacher of 6 layers; choose layers from 0 to 5"),
        (None, [-1], "choose layers from 0 to 5"),
        (None, [], "choose layers from 0 to 5"),
        (None, [3, 1, 3], r"layers=\[3, 1, 3\] must ascend, .* the teacher's 6; did you mean \[1, 3\]"),
        (None, [1, 1, 3], r"layers=\[1, 1, 3\] must ascend, and may repeat only if the student has more layers"),
        (None, [0, 1, 2, 3, 4, 5, 5, 4], "must ascend"),
    ],
)
def test_student_refuses_layers_that_the_teacher_does_not_have(num_hidden_layers, layers, message):
    with pytest.raises(ValueError, match=message):
        choose_layers(6, num_hidden_layers, layers)


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "layers"),
    [
        ({"num_hidden_layers": 3}, [1, 3, 5]),
        ({"layers": [0, 4]}, [0, 4]),
        ({}, list(range(6))),
        ({"layers": [0, 0, 1, 2, 3, 4, 5, 5]}, [0, 0, 1, 2, 3, 4, 5, 5]),
    ],
)
def test_student_copies_layers_embeddings_and_classifier_from_the_teacher(choice, layers):
    teacher = bert()
    student = TKDForSequenceClassification.from_teacher(teacher, **choice)
    assert student.config.num_hidden_layers == len(layers)
    assert student.init_report.layers == tuple(layers)
    for index, layer in enumerate(layers):
        assert_layer_equal(student, index, teacher, layer)
    embeddings = student.tkd.embeddings
    assert torch.equal(embeddings.word_embeddings.weight, teacher.bert.embeddings.word_embeddings.weight)
    assert torch.equal(embeddings.norm.bias, teacher.bert.embeddings.LayerNorm.bias)
    assert torch.equal(student.dense.weight, teacher.bert.pooler.dense.weight)
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    assert student.init_report.initialised == ()
    assert student.init_report.narrowed == ()


def test_student_with_all_layers_gives_the_logits_of_its_teacher():
    teacher = bert()
    torch.testing.assert_close(logits(student_from_teacher(teacher)), logits(teacher), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        RobertaConfig(**SIZES),
        ElectraConfig(**SIZES, embedding_size=10),
        DistilBertConfig(vocab_size=40, dim=24, n_heads=4, hidden_dim=20, n_layers=6, max_position_embeddings=16),
        TKDConfig(**SIZES, heads_per_layer=[4, 3, 2, 1, 4, 2], intermediate_sizes=[20, 9, 8, 7, 6, 5]),
    ],
    ids=lambda config: config.model_type,
)
def test_students_of_every_architecture_copy_all_their_weights(config):
    teacher = AutoModelForSequenceClassification.from_config(config).eval()
    student = student_from_teacher(teacher, num_hidden_layers=3)
    assert student.init_report.initialised == ()
    for index, layer in enumerate([1, 3, 5]):
        assert_layer_equal(student, index, teacher, layer)
    torch.testing.assert_close(logits(student_from_teacher(teacher)), logits(teacher), rtol=0, atol=1e-5)


def test_uneven_teacher_gives_an_uneven_student():
    shape = {"heads_per_layer": [4, 3, 2, 1, 4, 2], "intermediate_sizes": [20, 9, 8, 7, 6, 5]}
    teacher = TKDForSequenceClassification(TKDConfig(**SIZES, **shape))
    config = student_from_teacher(teacher, num_hidden_layers=3, intermediate_size=8).config
    assert config.heads_per_layer == [3, 1, 2]
    assert config.intermediate_sizes == [8, 7, 5]
    assert student_from_teacher(teacher, layers=[0, 4]).config.heads_per_layer is None  # both layers have four


def test_narrowing_keeps_the_strongest_heads_and_neurons():
    teacher = bert()
    layer = teacher.bert.encoder.layer[5]
    with torch.no_grad():
        for head in (0, 2):
            for projection in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                projection.weight[head * 6 : (head + 1) * 6] *= 10
        layer.intermediate.dense.weight[[3, 19, 11]] *= 10
    student = student_from_teacher(teacher, layers=[5], num_attention_heads=2, intermediate_size=3)
    narrow, rows = student.tkd.layers[0], [*range(6), *range(12, 18)]
    assert student.config.num_attention_heads == 2
    assert student.config.head_dim == 6
    for name in ("query", "key", "value"):
        narrow_projection, projection = getattr(narrow.attention, name), getattr(layer.attention.self, name)
        assert torch.equal(narrow_projection.weight, projection.weight[rows])
        assert torch.equal(narrow_projection.bias, projection.bias[rows])
    assert torch.equal(narrow.attention.output.weight, layer.attention.output.dense.weight[:, rows])
    assert torch.equal(narrow.feed_forward.intermediate.weight, layer.intermediate.dense.weight[[3, 11, 19]])
    assert torch.equal(narrow.feed_forward.intermediate.bias, layer.intermediate.dense.bias[[3, 11, 19]])
    assert torch.equal(narrow.feed_forward.output.weight, layer.output.dense.weight[:, [3, 11, 19]])
    assert torch.equal(narrow.feed_forward.output.bias, layer.output.dense.bias)
    assert len(student.init_report.narrowed) == 7 + 3
    assert student.init_report.initialised == ()


def test_removing_heads_and_neurons_with_zero_weights_keeps_the_logits():
    teacher = bert()
    with torch.no_grad():
        for layer in teacher.bert.encoder.layer:
            for name in ("query", "key", "value"):
                getattr(layer.attention.self, name).weight[6:12] = 0
            layer.attention.self.value.bias[6:12] = 0
            layer.attention.output.dense.weight[:, 6:12] = 0
            layer.intermediate.dense.weight[4:9] = 0
            layer.output.dense.weight[:, 4:9] = 0
    student = student_from_teacher(teacher, num_attention_heads=3, intermediate_size=15)
    torch.testing.assert_close(logits(student), logits(teacher), rtol=0, atol=1e-5)


def test_narrowing_to_the_full_size_returns_no_weights():
    weights = to_tkd(bert()).tkd.layers[0].state_dict()
    assert narrow_layer(weights, heads=4, head_dim=6, neurons=20) == {}


def test_config_overrides_set_any_field_of_the_student():
    student = student_from_teacher(
        bert(), num_hidden_layers=2, hidden_dropout_prob=0.0, heads_per_layer=[4, 1], intermediate_sizes=[3, 20]
    )
    assert student.config.hidden_dropout_prob == 0.0
    assert student.tkd.layers[1].attention.query.out_features == 6
    assert student.tkd.layers[0].feed_forward.intermediate.out_features == 3
    assert student.init_report.initialised == ()


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads=5 for a teacher with 4; .* choose from 1 to 4"),
        ({"intermediate_size": 21}, "intermediate_size=21 for a teacher with 20"),
        ({"intermediate_size": 0}, "intermediate_size=0"),
    ],
)
def test_student_refuses_widths_that_the_teacher_does_not_have(widths, message):
    with pytest.raises(ValueError, match=message):
        student_from_teacher(bert(), **widths)


# --- heads and labels -----------------------------------------------------------------------------------------------


def labelled(*names):
    return bert(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})


def test_student_keeps_the_labels_of_its_teacher():
    teacher = labelled("bad", "so-so", "good")
    assert student_from_teacher(teacher).config.id2label == {0: "bad", 1: "so-so", 2: "good"}


def test_label_names_reorder_the_rows_of_the_classifier():
    teacher = labelled("bad", "so-so", "good")
    student = student_from_teacher(teacher, label_names=["good", "bad", "so-so"])
    assert student.config.id2label == {0: "good", 1: "bad", 2: "so-so"}
    assert student.config.label2id == {"good": 0, "bad": 1, "so-so": 2}
    torch.testing.assert_close(logits(student), logits(teacher)[:, [2, 0, 1]], rtol=0, atol=1e-5)


def test_label_names_that_differ_from_the_teachers_are_refused():
    with pytest.raises(ValueError, match=r"'bad', 'good'.*'negative', 'positive'"):
        student_from_teacher(labelled("bad", "good"), label_names=["negative", "positive"])


def test_student_with_another_head_initialises_only_the_head():
    teacher = bert()
    student = TKDForTokenClassification.from_teacher(teacher, label_names=["O", "B", "I"])
    assert student.config.id2label == {0: "O", 1: "B", 2: "I"}
    assert student.init_report.initialised == ("classifier.weight", "classifier.bias")
    assert_layer_equal(student, 5, teacher, 5)
    masked_lm = TKDForMaskedLM.from_teacher(teacher, num_hidden_layers=2)
    assert masked_lm.init_report.initialised == (
        *("transform.weight", "transform.bias", "norm.weight", "norm.bias", "decoder.bias"),
    )


def test_classifiers_start_from_bare_encoders_and_encoders_from_classifiers():
    teacher = BertModel(BertConfig(**SIZES))
    student = TKDForSequenceClassification.from_teacher(teacher, label_names=["no", "yes"])
    assert torch.equal(student.tkd.layers[5].attention.key.bias, teacher.encoder.layer[5].attention.self.key.bias)
    assert type(student_from_teacher(teacher)) is TKDModel
    encoder = TKDModel.from_teacher(bert(), layers=[5])
    assert encoder.init_report.initialised == ()


def test_masked_lm_student_copies_the_head_of_its_teacher():
    teacher = AutoModelForMaskedLM.from_config(BertConfig(**SIZES)).eval()
    student = student_from_teacher(teacher)
    assert type(student) is TKDForMaskedLM
    assert student.init_report.initialised == ()
    torch.testing.assert_close(logits(student), logits(teacher), rtol=0, atol=1e-5)


# --- the teacher and the report -------------------------------------------------------------------------------------


def test_teacher_stays_unchanged_and_shares_no_tensor_with_the_student():
    teacher = labelled("bad", "good").train()
    weights, config = copy.deepcopy(teacher.state_dict()), copy.deepcopy(teacher.config.to_dict())
    student = student_from_teacher(teacher, num_hidden_layers=2, intermediate_size=4, label_names=["good", "bad"])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.fill_(7.0)
    student.config.id2label[0] = "changed"
    assert teacher.training
    assert not student.training
    assert teacher.config.to_dict() == config
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, weights[name])
    tkd_teacher = to_tkd(bert())
    pointers = {parameter.data_ptr() for parameter in student_from_teacher(tkd_teacher).parameters()}
    assert pointers.isdisjoint(parameter.data_ptr() for parameter in tkd_teacher.parameters())


def test_same_seed_gives_the_same_student():
    teacher = bert()
    students = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        students.append(TKDForTokenClassification.from_teacher(teacher, layers=[5]))
    assert torch.equal(students[0].classifier.weight, students[1].classifier.weight)
    assert not torch.equal(students[0].classifier.weight, students[2].classifier.weight)


def test_student_of_a_bfloat16_teacher_is_float32():
    assert student_from_teacher(bert().to(torch.bfloat16), layers=[5]).dtype == torch.float32


def test_teacher_can_be_given_by_its_path(tmp_path):
    teacher = bert()
    teacher.save_pretrained(tmp_path)
    for student in (student_from_teacher(str(tmp_path)), TKDForSequenceClassification.from_teacher(tmp_path)):
        assert type(student) is TKDForSequenceClassification
        torch.testing.assert_close(logits(student), logits(teacher), rtol=0, atol=1e-5)
    student_from_teacher(teacher, layers=[2, 5]).save_pretrained(tmp_path / "student")
    smaller = student_from_teacher(tmp_path / "student", num_hidden_layers=1)
    assert_layer_equal(smaller, 0, teacher, 5)


def test_teacher_of_another_type_is_refused_with_a_hint():
    with pytest.raises(TypeError, match=r"teacher is a Linear, .*merge_and_unload"):
        student_from_teacher(torch.nn.Linear(2, 2))


def test_init_report_prints_layers_and_initialised_weights():
    student = TKDForTokenClassification.from_teacher(bert(), num_hidden_layers=3, intermediate_size=5)
    text = str(student.init_report)
    assert "student of 3 layers from BertForSequenceClassification (layers 1, 3, 5 of 6)" in text
    assert "in part: 9" in text
    assert "initialised at random: classifier.weight, classifier.bias" in text
