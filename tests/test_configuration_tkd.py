"""TKDConfig: its defaults, its errors, and what survives a round trip."""

import pytest

from tkd_hf import TKDConfig


def test_defaults_are_the_shape_of_tkd_nlp():
    config = TKDConfig()
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (12, 8, 512)
    assert (config.embedding_size, config.head_dim) == (512, 64)
    assert config.heads_of(3) == 8
    assert config.intermediate_size_of(3) == 2048


def test_uneven_layers_round_trip(tmp_path):
    config = TKDConfig(
        num_hidden_layers=2, heads_per_layer=[8, 3], intermediate_sizes=[100, 7], embedding_size=64, num_labels=5
    )
    config.save_pretrained(tmp_path)
    again = TKDConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert [again.heads_of(layer) for layer in (0, 1)] == [8, 3]
    assert [again.intermediate_size_of(layer) for layer in (0, 1)] == [100, 7]


def test_sizes_left_to_default_follow_the_hidden_size(tmp_path):
    TKDConfig(hidden_size=64).save_pretrained(tmp_path)
    again = TKDConfig.from_pretrained(tmp_path)
    assert (again.embedding_size, again.head_dim) == (64, 8)


def test_auto_map_names_this_folder_whatever_it_was_loaded_from():
    config = TKDConfig(auto_map={"AutoModel": "someone/else--modeling_tkd.TKDModel"})
    assert config.auto_map["AutoModel"] == "modeling_tkd.TKDModel"
    assert len(config.auto_map) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100}, r"hidden_size=100 is not a multiple of num_attention_heads=8; set head_dim"),
        (
            {"num_hidden_layers": 4, "heads_per_layer": [8, 8, 8]},
            r"heads_per_layer has 3 entries but num_hidden_layers=4; give one entry a layer, or drop",
        ),
        ({"num_hidden_layers": 1, "intermediate_sizes": [9, 9]}, r"intermediate_sizes has 2 entries but"),
        ({"num_hidden_layers": 2, "heads_per_layer": [8, 0]}, r"heads_per_layer=\[8, 0\] has an entry below 1"),
        (
            {"embedding_size": 31, "position_embedding_type": "sinusoidal"},
            r"embedding_size=31 is odd, but position_embedding_type='sinusoidal'",
        ),
        ({"num_hidden_layers": 0}, r"num_hidden_layers=0, but at least 1"),
        ({"num_attention_heads": 0}, r"num_attention_heads=0"),
        ({"type_vocab_size": -1}, r"type_vocab_size=-1, but 0 is the least"),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob=1.0 is no share to drop"),
        ({"pad_token_id": 9, "vocab_size": 9}, r"pad_token_id=9 is none of the vocab_size=9 tokens"),
        ({"pooler_act": "gilu"}, r"pooler_act='gilu' is no activation that transformers knows"),
    ],
)
def test_errors_name_both_values_and_the_way_out(fields, message):
    with pytest.raises(ValueError, match=message):
        TKDConfig(**fields)


def test_a_head_dim_of_its_own_lifts_the_divisibility():
    assert TKDConfig(hidden_size=100, head_dim=16).head_dim == 16


def test_a_contradiction_made_later_is_found_when_saving(tmp_path):
    config = TKDConfig(num_hidden_layers=2, heads_per_layer=[8, 8])
    config.num_hidden_layers = 3
    with pytest.raises(Exception, match="heads_per_layer has 2 entries but num_hidden_layers=3"):
        config.save_pretrained(tmp_path)
