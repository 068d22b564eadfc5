"""Random input is either refused with an error, or saved and loaded without a change."""

import string
from contextlib import suppress

import numpy as np
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tkd_hf import InputError, SoftLabels, TKDConfig, TKDForSequenceClassification
from tkd_hf.cli.recipe import KEYS, Recipe
from tkd_hf.cli.registry import COMMANDS
from tkd_hf.cli.run import _plan

from .factories import TEXTS, build_tokenizer


# every run draws the same examples; all examples of a test share one tmp_path, and each overwrites the files
settings.register_profile(
    "tkd", max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PROFILE = settings.get_profile("tkd")

sizes = st.integers(min_value=-1, max_value=24)
per_layer = st.none() | st.lists(st.integers(min_value=0, max_value=5), min_size=1, max_size=3)
shapes = st.fixed_dictionaries(
    {
        "num_hidden_layers": st.integers(min_value=0, max_value=3),
        "hidden_size": sizes,
        "num_attention_heads": st.integers(min_value=0, max_value=4),
        "vocab_size": st.integers(min_value=0, max_value=20),
    },
    optional={
        "heads_per_layer": per_layer,
        "intermediate_sizes": per_layer,
        "intermediate_size": sizes,
        "embedding_size": st.none() | sizes,
        "head_dim": st.none() | st.integers(min_value=0, max_value=5),
        "type_vocab_size": st.integers(min_value=-1, max_value=2),
        "max_position_embeddings": sizes,
        "position_embedding_type": st.sampled_from(["learned", "sinusoidal", "rotary"]),
        "hidden_act": st.sampled_from(["gelu", "relu", "no_such_act"]),
        "pooler_act": st.sampled_from(["tanh", "no_such_act"]),
        "pad_token_id": st.none() | st.integers(min_value=-2, max_value=30),
        "hidden_dropout_prob": st.floats(min_value=-1, max_value=2),
        "layer_norm_eps": st.sampled_from([1e-12, 0.1]),
        "num_labels": st.integers(min_value=1, max_value=4),
    },
)


@settings(PROFILE, max_examples=60)
@given(shapes)
def test_a_valid_configuration_survives_saving_and_loading(tmp_path, shape):
    try:
        config = TKDConfig(**shape)
    except (ValueError, StrictDataclassError):
        return
    model = TKDForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    loaded = TKDForSequenceClassification.from_pretrained(tmp_path).eval()
    names = set(shape) | {"embedding_size", "head_dim"}
    assert {name: getattr(loaded.config, name) for name in names} == {name: getattr(config, name) for name in names}
    ids = torch.arange(min(config.vocab_size, config.max_position_embeddings, 4))[None]
    with torch.no_grad():
        logits, loaded_logits = (each(ids, torch.ones_like(ids)).logits for each in (model, loaded))
    assert logits.isfinite().all()
    # weights that are mapped from a file are aligned differently, which may change the last bits of a sum
    torch.testing.assert_close(logits, loaded_logits, rtol=1e-5, atol=1e-6)


texts = st.lists(st.text(alphabet=[*"abgod ", "é", "\x00", "😀", "‮"], max_size=30), min_size=1, max_size=5)


@settings(PROFILE)
@given(texts, st.randoms(use_true_random=False), st.sampled_from(["left", "right"]), st.integers(0, 7))
def test_logits_do_not_depend_on_the_other_texts_of_a_batch_or_on_padding(texts, random, side, extra_padding):
    """The batch varies in its order, the side of the padding, and the length of the padding."""
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "heads_per_layer": [2, 1], "head_dim": 4, "intermediate_sizes": [5, 3]}
    model = TKDForSequenceClassification(TKDConfig(hidden_size=8, vocab_size=32, initializer_range=0.5, **shape)).eval()
    tokenizer = build_tokenizer(padding_side=side)
    order = list(range(len(texts)))
    random.shuffle(order)
    with torch.no_grad():
        single_logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        length = max(len(tokenizer(text)["input_ids"]) for text in texts) + extra_padding
        batch = tokenizer([texts[i] for i in order], padding="max_length", max_length=length, return_tensors="pt")
        torch.testing.assert_close(model(**batch).logits, single_logits[order], atol=1e-5, rtol=1e-5)


scalars = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(string.printable, max_size=8)
)
options = st.dictionaries(
    st.sampled_from(["task", "layers", "objectives", "model", "teacher", "output_dir", "learning_rate", "x"]) | scalars,
    scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=3), scalars, max_size=2),
    max_size=4,
)
stages = st.lists(
    st.dictionaries(st.sampled_from([*COMMANDS, "no_such_stage"]) | scalars, st.none() | options, max_size=2) | scalars,
    max_size=4,
)
recipes = st.dictionaries(st.sampled_from([*KEYS, "unknown"]), scalars | options | stages, max_size=5)


@settings(PROFILE, max_examples=200)
@given(recipes)
def test_a_recipe_is_refused_or_planned_stage_by_stage(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    try:
        recipe = Recipe.read(path)
        planned = _plan(recipe, COMMANDS, "out", {}, overwrite=False)
    except InputError:
        return
    assert [stage.name for stage in planned] == [name for name, _ in recipe.stages]


@settings(PROFILE)
@given(st.binary(max_size=60))
def test_a_recipe_of_random_bytes_is_read_or_refused(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with suppress(InputError):
        Recipe.read(path)


@settings(PROFILE)
@given(st.data())
def test_a_changed_or_truncated_file_of_soft_labels_never_gives_other_logits(tmp_path, data):
    keys = np.arange(16 * len(TEXTS), dtype=np.uint8).reshape(len(TEXTS), 16)
    logits = np.linspace(-1, 1, 2 * len(TEXTS), dtype=np.float32).reshape(-1, 2)
    path = tmp_path / "soft.safetensors"
    SoftLabels("teacher", "r1", ("no", "yes"), keys, logits).save(path)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        loaded = SoftLabels.load(path, revision="r1")
    except InputError:
        return
    assert np.array_equal(loaded.keys, keys)
    assert np.array_equal(loaded.logits, logits)
    assert loaded.label_names == ("no", "yes")
