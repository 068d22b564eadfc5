"""Run the common model and configuration tests of transformers on TKD."""

import unittest

import pytest
from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask

from tkd_hf import TKDConfig, TKDForMaskedLM, TKDForSequenceClassification, TKDForTokenClassification, TKDModel


class TKDModelTester:
    """Tiny configuration and inputs, with the sizes that the tests read as attributes."""

    is_training = True
    batch_size = 13
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4

    def __init__(self, shape):
        self.config_fields = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": 37,
            "max_position_embeddings": 64,
            **shape,
        }

    def get_config(self):
        return TKDConfig(**self.config_fields)

    def prepare_config_and_inputs_for_common(self):
        size = [self.batch_size, self.seq_length]
        return self.get_config(), {
            "input_ids": ids_tensor(size, self.vocab_size),
            "token_type_ids": ids_tensor(size, 2),
            "attention_mask": random_attention_mask(size),
        }


class TKDModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (TKDModel, TKDForSequenceClassification, TKDForTokenClassification, TKDForMaskedLM)
    shape = {}

    def setUp(self):
        self.model_tester = TKDModelTester(self.shape)
        self.config_tester = ConfigTester(self, config_class=TKDConfig, **self.model_tester.config_fields)

    @pytest.fixture(autouse=True)
    def add_to_stock_models(self, monkeypatch):
        """Register the class names: the tests look up in these tables which labels a head takes."""
        for names, model_class in (
            (modeling_auto.MODEL_MAPPING_NAMES, TKDModel),
            (modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, TKDForSequenceClassification),
            (modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, TKDForTokenClassification),
            (modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, TKDForMaskedLM),
        ):
            monkeypatch.setitem(names, "tkd", model_class.__name__)

    def test_config(self):
        self.config_tester.run_common_tests()

    @unittest.skip("TKD is not composite; transformers would report this as missing SDPA, which must fail elsewhere")
    def test_sdpa_can_dispatch_composite_models(self):
        pass


class PrunedTKDModelTest(TKDModelTest):
    """The same tests with the shape of a pruned model: uneven layers, narrow embeddings and an explicit head width."""

    shape = {
        "heads_per_layer": [4, 2],
        "intermediate_sizes": [37, 20],
        "head_dim": 6,
        "embedding_size": 16,
        "position_embedding_type": "sinusoidal",
        "type_vocab_size": 0,
    }
