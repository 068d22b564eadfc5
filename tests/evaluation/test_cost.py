"""How many weights a model has."""

import pytest
from transformers import AutoModelForSequenceClassification, BertConfig

from tkd_hf import TKDConfig, TKDForSequenceClassification, student_from_teacher
from tkd_hf.evaluation.cost import count_parameters

from ..conftest import build_teacher


@pytest.mark.parametrize(
    "model",
    [
        build_teacher(),
        student_from_teacher(build_teacher(), num_hidden_layers=2),
        TKDForSequenceClassification(
            TKDConfig(num_hidden_layers=2, heads_per_layer=[8, 5], intermediate_sizes=[20, 7], vocab_size=50)
        ),
    ],
    ids=["bert", "student", "uneven"],
)
def test_a_configuration_says_how_many_weights_there_are(model):
    found = count_parameters(model.config)
    assert found.total == model.num_parameters()
    assert found.embeddings == sum(weight.numel() for weight in model.base_model.embeddings.parameters())


def test_counting_costs_no_memory():
    config = BertConfig(vocab_size=10**9, hidden_size=8, num_attention_heads=1, num_labels=2)
    config.architectures = [AutoModelForSequenceClassification._model_mapping[BertConfig].__name__]
    assert count_parameters(config).embeddings > 8 * 10**9  # 32 gigabytes
