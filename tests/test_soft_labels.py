"""Soft labels belong to content: they survive everything but a change of what the teacher read, or of the teacher."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from safetensors.numpy import save_file

from tkd_hf import InputError, SoftLabels
from tkd_hf.data.features import teacher_features, tokenize
from tkd_hf.evaluation.runners import PyTorchRunner
from tkd_hf.inference import predict_logits
from tkd_hf.soft_labels import attach_mean, content_keys, default_path, teacher_revision

from .conftest import TEXTS, WORDS, build_teacher, build_tokenizer


@pytest.fixture
def soft(teacher, tokenizer, features):
    return SoftLabels.compute(teacher, tokenizer, features, batch_size=3)


def live_logits(teacher, tokenizer, texts):
    with torch.no_grad():
        return torch.stack([teacher(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]).numpy()


def test_they_are_the_teachers_logits_in_any_order(soft, teacher, tokenizer, features):
    expected = live_logits(teacher, tokenizer, TEXTS)
    np.testing.assert_allclose(soft.attach(features)["teacher_logits"][:], expected, atol=1e-5)
    order = [5, 0, 3, 3, 7]
    shuffled = soft.attach(features.select(order))
    np.testing.assert_allclose(shuffled["teacher_logits"][:], expected[order], atol=1e-5)


def test_equal_examples_are_run_once(teacher, tokenizer):
    twice = tokenize(Dataset.from_dict({"text": TEXTS * 2}), tokenizer)
    assert len(SoftLabels.compute(teacher, tokenizer, twice).keys) == len(TEXTS)


def test_mixed_precision_is_close(teacher, tokenizer, features, soft):
    mixed = SoftLabels.compute(teacher, tokenizer, features, bf16=True)
    assert 0 < np.abs(mixed.logits - soft.logits).max() < 0.2 * np.abs(soft.logits).max()


def test_padding_does_not_change_a_key(tokenizer, features):
    padded = Dataset.from_dict(dict(tokenizer(TEXTS, padding="max_length", max_length=20)))
    np.testing.assert_array_equal(content_keys(padded), content_keys(features))


def test_keys_tell_contents_apart(tokenizer):
    def key(ids, types=None):
        return content_keys(Dataset.from_dict({"input_ids": [ids]} | ({"token_type_ids": [types]} if types else {})))

    different = [key([1, 2, 3]), key([1, 2]), key([3, 2, 1]), key([1, 2, 3], [0, 1, 1]), key([1, 2, 3], [0, 0, 1])]
    assert len(np.unique(np.concatenate(different), axis=0)) == len(different)
    np.testing.assert_array_equal(key([1, 2, 3]), key([1, 2, 3], [0, 0, 0]))


def test_saved_is_loaded(soft, tmp_path, features):
    soft.save(tmp_path / "new folder" / "soft.safetensors")
    loaded = SoftLabels.load(tmp_path / "new folder" / "soft.safetensors", soft.revision)
    assert (loaded.label_names, loaded.teacher) == (soft.label_names, soft.teacher)
    assert loaded.attach(features)["teacher_logits"][:] == soft.attach(features)["teacher_logits"][:]
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["soft.safetensors"]


def test_one_flipped_bit_is_found(soft, tmp_path):
    path = tmp_path / "soft.safetensors"
    soft.save(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"soft.safetensors are damaged \(the checksum does not match\); delete it"):
        SoftLabels.load(path)


def test_what_is_damaged_or_wrong_is_refused_by_name(soft, tmp_path):
    path = tmp_path / "soft.safetensors"
    with pytest.raises(InputError, match=r"no soft labels at .*soft.safetensors; run `tkd-hf label` first"):
        SoftLabels.load(path)
    soft.save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"soft.safetensors are damaged .*delete it and run `tkd-hf label` again"):
            SoftLabels.load(path)
    build_teacher().save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"model.safetensors has the format 'pt', not 'tkd-hf soft labels 2'"):
        SoftLabels.load(tmp_path / "model" / "model.safetensors")


def test_those_of_another_teacher_are_refused(soft, tmp_path):
    soft.save(tmp_path / "soft.safetensors")
    with pytest.raises(InputError, match=rf"are of revision {soft.revision} of .* but the teacher has revision other"):
        SoftLabels.load(tmp_path / "soft.safetensors", "other")
    with pytest.raises(InputError, match="cannot join"):
        soft.merge(SoftLabels("t", "other", soft.label_names, soft.keys, soft.logits))


def test_missing_examples_are_counted_and_can_be_added(soft, teacher, tokenizer, features):
    more = tokenize(Dataset.from_dict({"text": [*TEXTS, "very very good"]}), tokenizer)
    assert soft.missing(more).tolist() == [len(TEXTS)]
    with pytest.raises(InputError, match=r"1 of 9 examples have no soft labels .*`tkd-hf label`"):
        soft.attach(more)
    whole = soft.merge(SoftLabels.compute(teacher, tokenizer, more.select([len(TEXTS)])))
    assert len(whole.attach(more)) == 9
    np.testing.assert_array_equal(
        whole.attach(features)["teacher_logits"][:], soft.attach(features)["teacher_logits"][:]
    )


def test_columns_follow_the_students_labels(soft, features):
    straight = np.array(soft.attach(features, ("NEGATIVE", "positive"))["teacher_logits"][:])
    swapped = np.array(soft.attach(features, ("positive", "negative"))["teacher_logits"][:])
    np.testing.assert_array_equal(straight[:, ::-1], swapped)
    with pytest.raises(InputError, match=r"\['negative', 'positive'\], are not those of the student, \['no', 'yes'\]"):
        soft.attach(features, ("no", "yes"))


def test_data_that_is_not_tokenised_is_named(soft, examples):
    with pytest.raises(InputError, match=r"no column 'input_ids' in the data; tokenise it first"):
        soft.attach(examples)


def test_the_revision_follows_weights_and_labels(tmp_path):
    def saved(name, **kwargs):
        model = build_teacher(**kwargs)
        model.save_pretrained(tmp_path / name)
        return teacher_revision(str(tmp_path / name)), teacher_revision(model)

    first, again = saved("a"), saved("b")
    assert first == again
    assert len({first, saved("c", seed=1), saved("d", labels=("no", "yes"))}) == 3


def test_the_revision_of_a_hub_model_is_its_commit(tmp_path):
    """A model in the Hub cache, asked for in a process of its own, since the cache's place is fixed at import."""
    commit, older = "0123456789abcdef0123456789abcdef01234567", "76543210fedcba9876543210fedcba9876543210"
    repository = tmp_path / "hub" / "models--org--teacher"
    for seed, revision in enumerate((commit, older)):
        build_teacher(labels=("a", "b", "c")[seed:], seed=seed).save_pretrained(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = (
        "from tkd_hf.soft_labels import teacher_revision; from tkd_hf.model_loading import load_classifier;"
        f"names = ['org/teacher', 'org/teacher@{older}'];"
        "print(*(f'{teacher_revision(name)}/{load_classifier(name).config.num_labels}' for name in names))"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"commit-{commit}/3", f"commit-{older}/2"]


def test_one_file_a_revision_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    assert default_path("x") == tmp_path / "tkd-hf" / "soft-labels" / "x.safetensors"


def test_a_slow_tokenizer_with_left_padding_changes_nothing(teacher, features, soft):
    left = build_tokenizer(padding_side="left")
    assert SoftLabels.compute(teacher, left, features).keys.tolist() == soft.keys.tolist()


def test_the_mean_of_several_teachers_each_with_its_own_tokenizer(examples, tokenizer, teacher):
    """By hand: each teacher's own logits, weighted, in the student's order of labels."""
    other_words = build_tokenizer(WORDS[:5] + WORDS[:4:-1])
    second = build_teacher(("positive", "negative"), seed=3)
    rows = tokenize(examples, tokenizer, teacher_tokenizer=[tokenizer, other_words])
    caches = [
        SoftLabels.compute(teacher, tokenizer, teacher_features(rows, 0)),
        SoftLabels.compute(second, other_words, teacher_features(rows, 1)),
    ]
    mean = np.array(attach_mean(rows, caches, [3, 1], ("negative", "positive"))["teacher_logits"][:])
    own = predict_logits(PyTorchRunner(teacher, tokenizer), tokenize(examples, tokenizer))
    others = predict_logits(PyTorchRunner(second, other_words), tokenize(examples, other_words))[:, ::-1]
    np.testing.assert_allclose(mean, 0.75 * own + 0.25 * others, atol=1e-5)
    with pytest.raises(InputError, match=r"teacher_weights=\[1, 2, 3\] for 2 teachers"):
        attach_mean(rows, caches, [1, 2, 3])


@pytest.fixture
def token_features(tagged, tokenizer):
    return tokenize(tagged, tokenizer)


@pytest.fixture
def token_soft(tagger, tokenizer, token_features):
    return SoftLabels.compute(tagger, tokenizer, token_features, batch_size=3)


def test_soft_labels_of_tokens_are_the_teachers_in_any_order(token_soft, token_features, tagger, tokenizer):
    order = [6, 0, 3, 3, 7]
    found = token_soft.attach(token_features.select(order), ("O", "B-X", "I-X"))["teacher_logits"][:]
    for logits, place in zip(found, order, strict=True):
        with torch.no_grad():
            expected = tagger(**tokenizer(TEXTS[place], return_tensors="pt")).logits[0]
        np.testing.assert_allclose(logits, expected[:, [2, 0, 1]], atol=1e-5)


def test_soft_labels_of_tokens_are_saved_loaded_and_merged(token_soft, tmp_path, tagger, tokenizer, token_features):
    parts = [SoftLabels.compute(tagger, tokenizer, token_features.select(rows)) for rows in ([0, 2, 5, 6], [6, 1, 3])]
    parts[0].save(tmp_path / "soft.safetensors")
    merged = SoftLabels.load(tmp_path / "soft.safetensors", token_soft.revision).merge(parts[1])
    assert merged.missing(token_features).tolist() == [4, 7]
    whole = merged.merge(token_soft)
    np.testing.assert_array_equal(whole.offsets, token_soft.offsets)
    np.testing.assert_allclose(whole.logits, token_soft.logits, atol=1e-5)
    assert len(whole.attach(token_features)) == len(TEXTS)


def test_lost_offsets_and_a_cut_file_are_found(token_soft, tmp_path):
    path = tmp_path / "soft.safetensors"
    token_soft.save(path)
    content = path.read_bytes()
    with safe_open(path, framework="np") as file:
        wrong = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in ("keys", "logits")}
    save_file(tensors, path, metadata=wrong)  # without offsets, each row would pass for an example
    with pytest.raises(InputError, match="the checksum does not match"):
        SoftLabels.load(path)
    path.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"soft.safetensors are damaged .*delete it"):
        SoftLabels.load(path)


def test_the_former_format_is_read(soft, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tkd_hf.soft_labels.FORMAT", "tkd-hf soft labels 1")
        soft.save(tmp_path / "soft.safetensors")
    np.testing.assert_array_equal(SoftLabels.load(tmp_path / "soft.safetensors").logits, soft.logits)


def test_soft_labels_of_tokens_need_the_same_tokens(token_soft, token_features):
    padded = token_features.map(lambda row: {name: [*row[name], 0] for name in ("input_ids", "attention_mask")})
    with pytest.raises(InputError, match=r"row 0 has 5 tokens, but 4 soft labels of .*rows without padding"):
        token_soft.attach(padded.remove_columns("token_type_ids"))
