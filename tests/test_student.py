"""Students: which layers, which weights, what is said about them, and that the teacher is left alone."""

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

from tkd_hf import TKDConfig, TKDForMaskedLM, TKDForSequenceClassification, TKDForTokenClassification, TKDModel
from tkd_hf.conversion import to_tkd
from tkd_hf.student import choose_layers, narrow_layer, student_from_teacher, uniform_layers


SIZES = {"vocab_size": 40, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 20}
SIZES |= {"num_hidden_layers": 6, "max_position_embeddings": 16, "initializer_range": 0.2}


def bert(seed=0, **fields):
    torch.manual_seed(seed)
    model = BertForSequenceClassification(BertConfig(**SIZES | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and norms too
    return model


def logits(model):
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        return model(ids).logits


def assert_layer_equal(student, index, teacher, layer):
    ours, theirs = student.tkd.layers[index].state_dict(), to_tkd(teacher).tkd.layers[layer].state_dict()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


# --- which layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "of", "layers"),
    [
        (3, 6, [1, 3, 5]),
        (2, 6, [2, 5]),
        (4, 6, [0, 2, 3, 5]),
        (1, 6, [5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (5, 12, [1, 3, 6, 8, 11]),
    ],
)
def test_uniform_layers(keep, of, layers):
    assert uniform_layers(keep, of) == layers


def test_uniform_layers_ascend_and_end_in_the_last():
    for of in range(1, 25):
        for keep in range(1, of + 1):
            layers = uniform_layers(keep, of)
            assert len(layers) == keep
            assert layers == sorted(set(layers))
            assert layers[0] >= 0
            assert layers[-1] == of - 1


@pytest.mark.parametrize(
    ("number", "layers", "message"),
    [
        (8, None, "num_hidden_layers=8 for a teacher of 6 layers; choose from 1 to 6"),
        (0, None, "num_hidden_layers=0 for a teacher of 6 layers"),
        (2, [1, 3, 5], r"num_hidden_layers=2 but layers=\[1, 3, 5\] has 3"),
        (None, [1, 6], r"layers=\[1, 6\] for a teacher of 6 layers; name some from 0 to 5"),
        (None, [-1], "name some from 0 to 5"),
        (None, [], "name some from 0 to 5"),
        (None, [3, 1, 3], r"layers=\[3, 1, 3\] must ascend, .* the teacher's 6 layers; did you mean \[1, 3\]"),
        (None, [1, 1, 3], r"layers=\[1, 1, 3\] must ascend, and repeat only in a student deeper than"),
        (None, [0, 1, 2, 3, 4, 5, 5, 4], "must ascend"),
    ],
)
def test_layers_that_cannot_be(number, layers, message):
    with pytest.raises(ValueError, match=message):
        choose_layers(6, number, layers)


# --- which weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "layers"),
    [
        ({"num_hidden_layers": 3}, [1, 3, 5]),
        ({"layers": [0, 4]}, [0, 4]),
        ({}, list(range(6))),
        ({"layers": [0, 0, 1, 2, 3, 4, 5, 5]}, [0, 0, 1, 2, 3, 4, 5, 5]),
    ],
)
def test_layers_embeddings_and_classifier_are_the_teachers(choice, layers):
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


def test_all_layers_are_the_teacher_itself():
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
def test_every_architecture_teaches(config):
    teacher = AutoModelForSequenceClassification.from_config(config).eval()
    student = student_from_teacher(teacher, num_hidden_layers=3)
    assert student.init_report.initialised == ()
    for index, layer in enumerate([1, 3, 5]):
        assert_layer_equal(student, index, teacher, layer)
    torch.testing.assert_close(logits(student_from_teacher(teacher)), logits(teacher), rtol=0, atol=1e-5)


def test_an_uneven_teacher_leaves_an_uneven_student():
    shape = {"heads_per_layer": [4, 3, 2, 1, 4, 2], "intermediate_sizes": [20, 9, 8, 7, 6, 5]}
    teacher = TKDForSequenceClassification(TKDConfig(**SIZES, **shape))
    config = student_from_teacher(teacher, num_hidden_layers=3, intermediate_size=8).config
    assert config.heads_per_layer == [3, 1, 2]
    assert config.intermediate_sizes == [8, 7, 5]
    assert student_from_teacher(teacher, layers=[0, 4]).config.heads_per_layer is None  # four in both


def test_the_strongest_heads_and_neurons_stay():
    teacher = bert()
    layer = teacher.bert.encoder.layer[5]
    with torch.no_grad():
        for head in (0, 2):
            for projection in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                projection.weight[head * 6 : (head + 1) * 6] *= 10
        layer.intermediate.dense.weight[[3, 19, 11]] *= 10
    student = student_from_teacher(teacher, layers=[5], num_attention_heads=2, intermediate_size=3)
    kept, rows = student.tkd.layers[0], [*range(6), *range(12, 18)]
    assert student.config.num_attention_heads == 2
    assert student.config.head_dim == 6
    for name in ("query", "key", "value"):
        ours, theirs = getattr(kept.attention, name), getattr(layer.attention.self, name)
        assert torch.equal(ours.weight, theirs.weight[rows])
        assert torch.equal(ours.bias, theirs.bias[rows])
    assert torch.equal(kept.attention.output.weight, layer.attention.output.dense.weight[:, rows])
    assert torch.equal(kept.feed_forward.intermediate.weight, layer.intermediate.dense.weight[[3, 11, 19]])
    assert torch.equal(kept.feed_forward.intermediate.bias, layer.intermediate.dense.bias[[3, 11, 19]])
    assert torch.equal(kept.feed_forward.output.weight, layer.output.dense.weight[:, [3, 11, 19]])
    assert torch.equal(kept.feed_forward.output.bias, layer.output.dense.bias)
    assert len(student.init_report.narrowed) == 7 + 3
    assert student.init_report.initialised == ()


def test_cutting_what_is_silent_changes_nothing():
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


def test_nothing_to_narrow_narrows_nothing():
    weights = to_tkd(bert()).tkd.layers[0].state_dict()
    assert narrow_layer(weights, heads=4, head_dim=6, neurons=20) == {}


def test_any_field_of_the_configuration_can_be_set():
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
def test_widths_that_the_teacher_does_not_have(widths, message):
    with pytest.raises(ValueError, match=message):
        student_from_teacher(bert(), **widths)


# --- heads and labels -----------------------------------------------------------------------------------------------


def labelled(*names):
    return bert(id2label=dict(enumerate(names)), label2id={name: row for row, name in enumerate(names)})


def test_labels_are_kept():
    teacher = labelled("bad", "so-so", "good")
    assert student_from_teacher(teacher).config.id2label == {0: "bad", 1: "so-so", 2: "good"}


def test_label_names_reorder_the_classifier():
    teacher = labelled("bad", "so-so", "good")
    student = student_from_teacher(teacher, label_names=["good", "bad", "so-so"])
    assert student.config.id2label == {0: "good", 1: "bad", 2: "so-so"}
    assert student.config.label2id == {"good": 0, "bad": 1, "so-so": 2}
    torch.testing.assert_close(logits(student), logits(teacher)[:, [2, 0, 1]], rtol=0, atol=1e-5)


def test_other_labels_are_an_error_that_prints_both():
    with pytest.raises(ValueError, match=r"'bad', 'good'.*'negative', 'positive'"):
        student_from_teacher(labelled("bad", "good"), label_names=["negative", "positive"])


def test_another_head_is_initialised():
    teacher = bert()
    student = TKDForTokenClassification.from_teacher(teacher, label_names=["O", "B", "I"])
    assert student.config.id2label == {0: "O", 1: "B", 2: "I"}
    assert student.init_report.initialised == ("classifier.weight", "classifier.bias")
    assert_layer_equal(student, 5, teacher, 5)
    masked_lm = TKDForMaskedLM.from_teacher(teacher, num_hidden_layers=2)
    assert masked_lm.init_report.initialised == (
        *("transform.weight", "transform.bias", "norm.weight", "norm.bias", "decoder.bias"),
    )


def test_an_encoder_teaches_a_classifier_and_the_other_way_round():
    teacher = BertModel(BertConfig(**SIZES))
    student = TKDForSequenceClassification.from_teacher(teacher, label_names=["no", "yes"])
    assert torch.equal(student.tkd.layers[5].attention.key.bias, teacher.encoder.layer[5].attention.self.key.bias)
    assert type(student_from_teacher(teacher)) is TKDModel
    encoder = TKDModel.from_teacher(bert(), layers=[5])
    assert encoder.init_report.initialised == ()


def test_a_masked_lm_teaches_its_head():
    teacher = AutoModelForMaskedLM.from_config(BertConfig(**SIZES)).eval()
    student = student_from_teacher(teacher)
    assert type(student) is TKDForMaskedLM
    assert student.init_report.initialised == ()
    torch.testing.assert_close(logits(student), logits(teacher), rtol=0, atol=1e-5)


# --- manners --------------------------------------------------------------------------------------------------------


def test_the_teacher_is_left_alone_and_shares_nothing():
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


def test_the_same_seed_gives_the_same_student():
    teacher = bert()
    students = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        students.append(TKDForTokenClassification.from_teacher(teacher, layers=[5]))
    assert torch.equal(students[0].classifier.weight, students[1].classifier.weight)
    assert not torch.equal(students[0].classifier.weight, students[2].classifier.weight)


def test_a_half_precision_teacher_has_a_full_precision_student():
    assert student_from_teacher(bert().to(torch.bfloat16), layers=[5]).dtype == torch.float32


def test_a_teacher_by_path(tmp_path):
    teacher = bert()
    teacher.save_pretrained(tmp_path)
    for student in (student_from_teacher(str(tmp_path)), TKDForSequenceClassification.from_teacher(tmp_path)):
        assert type(student) is TKDForSequenceClassification
        torch.testing.assert_close(logits(student), logits(teacher), rtol=0, atol=1e-5)
    student_from_teacher(teacher, layers=[2, 5]).save_pretrained(tmp_path / "student")
    smaller = student_from_teacher(tmp_path / "student", num_hidden_layers=1)
    assert_layer_equal(smaller, 0, teacher, 5)


def test_what_is_no_teacher_says_so():
    with pytest.raises(TypeError, match=r"teacher is a Linear, .*merge_and_unload"):
        student_from_teacher(torch.nn.Linear(2, 2))


def test_the_report_reads():
    student = TKDForTokenClassification.from_teacher(bert(), num_hidden_layers=3, intermediate_size=5)
    text = str(student.init_report)
    assert "student of 3 layers from BertForSequenceClassification (its layers 1, 3, 5 of 6)" in text
    assert "in part: 9" in text
    assert "initialised: classifier.weight, classifier.bias" in text
