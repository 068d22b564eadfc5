"""TKDConfig: defaults, validation, saving and loading."""

import pytest

from tkd_hf import TKDConfig


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
