"""Teachers: live models, several as one, and soft labels, which stay valid as long as teacher and content do."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from safetensors.numpy import save_file

from tkd_hf import DataArguments, InputError, SoftLabels, label
from tkd_hf.commands.label import complete_soft_labels
from tkd_hf.core.files import file_state
from tkd_hf.data.tokenization import teacher_features, tokenize
from tkd_hf.inference.prediction import predict_logits
from tkd_hf.inference.runners import PyTorchRunner
from tkd_hf.records.inputs import teacher_revision
from tkd_hf.teachers.soft_labels import attach_mean, content_keys, default_path
from tkd_hf.teachers.teacher import CachedTeacher, LiveTeacher, TeacherEnsemble

from ..factories import TEXTS, WORDS, build_teacher, build_tokenizer


BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
}


@pytest.fixture
def soft(teacher, tokenizer, features):
    return SoftLabels.compute(teacher, tokenizer, features, batch_size=3)


@pytest.fixture
def token_features(tagged, tokenizer):
    return tokenize(tagged, tokenizer)


@pytest.fixture
def token_soft(tagger, tokenizer, token_features):
    return SoftLabels.compute(tagger, tokenizer, token_features, batch_size=3)


def test_a_live_teacher_runs_without_dropout_and_keeps_its_mode(teacher):
    teacher.train()
    live = LiveTeacher(teacher)
    torch.testing.assert_close(live(BATCH).logits, live(BATCH).logits, atol=0, rtol=0)
    assert teacher.training
    assert not live(BATCH).logits.requires_grad


def test_a_live_teacher_puts_its_logits_in_the_students_label_order(teacher):
    reordered = LiveTeacher(teacher, label_order=[1, 0])(BATCH).logits
    torch.testing.assert_close(reordered, LiveTeacher(teacher)(BATCH).logits[:, [1, 0]])


def test_an_ensemble_gives_the_weighted_mean_of_the_teachers_logits():
    teachers = [build_teacher(seed=seed) for seed in (0, 1)]
    live = [LiveTeacher(teacher) for teacher in teachers]
    first, second = (teacher(**BATCH).logits.detach() for teacher in teachers)
    torch.testing.assert_close(TeacherEnsemble(live)(BATCH).logits, (first + second) / 2)
    torch.testing.assert_close(TeacherEnsemble(live, [3, 1])(BATCH).logits, (3 * first + second) / 4)


def test_an_ensemble_predicts_the_geometric_mean_of_the_distributions():
    logits = torch.tensor([[[1.0, 2.0, -1.0]], [[0.0, 3.0, 0.5]]])
    cached = [lambda batch, own=own: CachedTeacher()({"teacher_logits": own}) for own in logits]
    mean = TeacherEnsemble(cached)({}).logits.softmax(-1)
    geometric = logits.softmax(-1).log().mean(0).exp()
    torch.testing.assert_close(mean, geometric / geometric.sum())


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_teacher_weights_that_do_not_fit_are_refused(weights, teacher):
    with pytest.raises(InputError, match=r"teacher_weights=\[.*\] for 2 teachers; give each a weight"):
        TeacherEnsemble([LiveTeacher(teacher)] * 2, weights)


def live_logits(teacher, tokenizer, texts):
    with torch.no_grad():
        return torch.stack([teacher(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]).numpy()


def test_soft_labels_are_the_teachers_logits_in_any_order_of_rows(soft, teacher, tokenizer, features):
    expected = live_logits(teacher, tokenizer, TEXTS)
    np.testing.assert_allclose(soft.attach(features)["teacher_logits"][:], expected, atol=1e-5)
    order = [5, 0, 3, 3, 7]
    shuffled = soft.attach(features.select(order))
    np.testing.assert_allclose(shuffled["teacher_logits"][:], expected[order], atol=1e-5)


def test_equal_examples_are_computed_once(teacher, tokenizer):
    twice = tokenize(Dataset.from_dict({"text": TEXTS * 2}), tokenizer)
    assert len(SoftLabels.compute(teacher, tokenizer, twice).keys) == len(TEXTS)


def test_bf16_logits_are_close_to_float32_logits(teacher, tokenizer, features, soft):
    mixed = SoftLabels.compute(teacher, tokenizer, features, bf16=True)
    assert 0 < np.abs(mixed.logits - soft.logits).max() < 0.2 * np.abs(soft.logits).max()


def test_padding_does_not_change_content_keys(tokenizer, features):
    padded = Dataset.from_dict(dict(tokenizer(TEXTS, padding="max_length", max_length=20)))
    np.testing.assert_array_equal(content_keys(padded), content_keys(features))


def test_content_keys_differ_for_different_ids_or_segments(tokenizer):
    def key(ids, segments=None):
        columns = {"input_ids": [ids]}
        if segments:
            columns["token_type_ids"] = [segments]
        return content_keys(Dataset.from_dict(columns))

    different = [key([1, 2, 3]), key([1, 2]), key([3, 2, 1]), key([1, 2, 3], [0, 1, 1]), key([1, 2, 3], [0, 0, 1])]
    assert len(np.unique(np.concatenate(different), axis=0)) == len(different)
    np.testing.assert_array_equal(key([1, 2, 3]), key([1, 2, 3], [0, 0, 0]))


def test_loaded_soft_labels_equal_the_saved_ones(soft, tmp_path, features):
    soft.save(tmp_path / "new folder" / "soft.safetensors")
    loaded = SoftLabels.load(tmp_path / "new folder" / "soft.safetensors", soft.revision)
    assert (loaded.label_names, loaded.teacher) == (soft.label_names, soft.teacher)
    assert loaded.attach(features)["teacher_logits"][:] == soft.attach(features)["teacher_logits"][:]
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["soft.safetensors"]


def test_one_flipped_bit_is_detected_by_the_checksum(soft, tmp_path):
    path = tmp_path / "soft.safetensors"
    soft.save(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"soft.safetensors are damaged \(the checksum does not match\); delete it"):
        SoftLabels.load(path)


def test_missing_damaged_and_foreign_files_are_refused_by_path(soft, tmp_path):
    path = tmp_path / "soft.safetensors"
    with pytest.raises(InputError, match=r"no soft labels at .*soft.safetensors; run `tkd-hf label` first"):
        SoftLabels.load(path)
    soft.save(path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:5], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"soft.safetensors are damaged .*delete it and run `tkd-hf label` again"):
            SoftLabels.load(path)
    build_teacher().save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"model.safetensors has the format 'pt', not 'tkd-hf soft labels 2'"):
        SoftLabels.load(tmp_path / "model" / "model.safetensors")


def test_soft_labels_of_another_teacher_are_refused(soft, tmp_path):
    soft.save(tmp_path / "soft.safetensors")
    with pytest.raises(
        InputError, match=rf"are of revision {soft.revision} of .* but the teacher is of revision other"
    ):
        SoftLabels.load(tmp_path / "soft.safetensors", "other")
    with pytest.raises(InputError, match="cannot join soft labels of revision other"):
        soft.merge(SoftLabels("t", "other", soft.label_names, soft.keys, soft.logits))


def test_missing_examples_are_reported_and_can_be_merged(soft, teacher, tokenizer, features):
    more = tokenize(Dataset.from_dict({"text": [*TEXTS, "very very good"]}), tokenizer)
    assert soft.missing(more).tolist() == [len(TEXTS)]
    with pytest.raises(InputError, match=r"1 of 9 examples have no soft labels .*`tkd-hf label`"):
        soft.attach(more)
    merged = soft.merge(SoftLabels.compute(teacher, tokenizer, more.select([len(TEXTS)])))
    assert len(merged.attach(more)) == 9
    np.testing.assert_array_equal(
        merged.attach(features)["teacher_logits"][:], soft.attach(features)["teacher_logits"][:]
    )


def test_attached_logits_follow_the_order_of_the_students_labels(soft, features):
    same_order = np.array(soft.attach(features, ("NEGATIVE", "positive"))["teacher_logits"][:])
    swapped = np.array(soft.attach(features, ("positive", "negative"))["teacher_logits"][:])
    np.testing.assert_array_equal(same_order[:, ::-1], swapped)
    with pytest.raises(InputError, match=r"\['negative', 'positive'\], are not those of the student, \['no', 'yes'\]"):
        soft.attach(features, ("no", "yes"))


def test_data_that_is_not_tokenised_is_refused(soft, examples):
    with pytest.raises(InputError, match=r"no column 'input_ids' in the data; tokenise it first"):
        soft.attach(examples)


def test_the_revision_changes_with_weights_and_label_names(tmp_path):
    def revisions(name, **kwargs):
        model = build_teacher(**kwargs)
        model.save_pretrained(tmp_path / name)
        return teacher_revision(str(tmp_path / name)), teacher_revision(model)

    first, second = revisions("a"), revisions("b")
    assert first == second
    assert len({first, revisions("c", seed=1), revisions("d", labels=("no", "yes"))}) == 3


def test_the_revision_of_a_hub_model_is_its_commit(tmp_path):
    """The models are in a Hub cache. A new process reads them, because the path of the cache is fixed at import."""
    commit, older = "0123456789abcdef0123456789abcdef01234567", "76543210fedcba9876543210fedcba9876543210"
    repository = tmp_path / "hub" / "models--org--teacher"
    for seed, revision in enumerate((commit, older)):
        build_teacher(labels=("a", "b", "c")[seed:], seed=seed).save_pretrained(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = (
        "from tkd_hf.records.inputs import teacher_revision; from tkd_hf.models.loading import load_classifier;"
        f"names = ['org/teacher', 'org/teacher@{older}'];"
        "print(*(f'{teacher_revision(name)}/{load_classifier(name).config.num_labels}' for name in names))"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [f"commit-{commit}/3", f"commit-{older}/2"]


def test_the_default_path_is_one_file_per_revision_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    assert default_path("x") == tmp_path / "tkd-hf" / "soft-labels" / "x.safetensors"


def test_left_padding_does_not_change_the_keys(teacher, features, soft):
    tokenizer = build_tokenizer(padding_side="left")
    assert SoftLabels.compute(teacher, tokenizer, features).keys.tolist() == soft.keys.tolist()


def test_soft_labels_of_several_teachers_are_averaged_by_weight_and_label_name(examples, tokenizer, teacher):
    """The second teacher has another tokenizer and another order of labels."""
    second = build_teacher(("positive", "negative"), seed=3)
    second_tokenizer = build_tokenizer(WORDS[:5] + WORDS[:4:-1])
    rows = tokenize(examples, tokenizer, teacher_tokenizer=[tokenizer, second_tokenizer])
    caches = [
        SoftLabels.compute(teacher, tokenizer, teacher_features(rows, 0)),
        SoftLabels.compute(second, second_tokenizer, teacher_features(rows, 1)),
    ]
    mean = np.array(attach_mean(rows, caches, [3, 1], ("negative", "positive"))["teacher_logits"][:])
    first_logits = predict_logits(PyTorchRunner(teacher, tokenizer), tokenize(examples, tokenizer))
    second_logits = predict_logits(PyTorchRunner(second, second_tokenizer), tokenize(examples, second_tokenizer))
    np.testing.assert_allclose(mean, 0.75 * first_logits + 0.25 * second_logits[:, ::-1], atol=1e-5)
    with pytest.raises(InputError, match=r"teacher_weights=\[1, 2, 3\] for 2 teachers"):
        attach_mean(rows, caches, [1, 2, 3])


def test_per_token_soft_labels_are_the_teachers_logits_in_any_order_of_rows(
    token_soft, token_features, tagger, tokenizer
):
    order = [6, 0, 3, 3, 7]
    attached = token_soft.attach(token_features.select(order), ("O", "B-X", "I-X"))["teacher_logits"][:]
    for logits, index in zip(attached, order, strict=True):
        with torch.no_grad():
            expected = tagger(**tokenizer(TEXTS[index], return_tensors="pt")).logits[0]
        np.testing.assert_allclose(logits, expected[:, [2, 0, 1]], atol=1e-5)


def test_per_token_soft_labels_are_saved_loaded_and_merged(token_soft, tmp_path, tagger, tokenizer, token_features):
    parts = [SoftLabels.compute(tagger, tokenizer, token_features.select(rows)) for rows in ([0, 2, 5, 6], [6, 1, 3])]
    parts[0].save(tmp_path / "soft.safetensors")
    merged = SoftLabels.load(tmp_path / "soft.safetensors", token_soft.revision).merge(parts[1])
    assert merged.missing(token_features).tolist() == [4, 7]
    complete = merged.merge(token_soft)
    np.testing.assert_array_equal(complete.offsets, token_soft.offsets)
    np.testing.assert_allclose(complete.logits, token_soft.logits, atol=1e-5)
    assert len(complete.attach(token_features)) == len(TEXTS)


def test_lost_offsets_and_truncated_files_are_detected(token_soft, tmp_path):
    path = tmp_path / "soft.safetensors"
    token_soft.save(path)
    content = path.read_bytes()
    with safe_open(path, framework="np") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in ("keys", "logits")}
    save_file(tensors, path, metadata=metadata)  # without offsets, each row would count as an example
    with pytest.raises(InputError, match="the checksum does not match"):
        SoftLabels.load(path)
    path.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"soft.safetensors are damaged .*delete it"):
        SoftLabels.load(path)


def test_format_1_can_be_read(soft, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tkd_hf.teachers.soft_labels.FORMAT", "tkd-hf soft labels 1")
        soft.save(tmp_path / "soft.safetensors")
    np.testing.assert_array_equal(SoftLabels.load(tmp_path / "soft.safetensors").logits, soft.logits)


def test_per_token_soft_labels_with_another_number_of_tokens_are_refused(token_soft, token_features):
    padded = token_features.map(lambda row: {name: [*row[name], 0] for name in ("input_ids", "attention_mask")})
    with pytest.raises(InputError, match=r"row 0 has 5 tokens, but 4 soft labels of .*rows without padding"):
        token_soft.attach(padded.remove_columns("token_type_ids"))


def part_of(soft: SoftLabels, rows: range) -> SoftLabels:
    return replace(soft, keys=soft.keys[rows], logits=soft.logits[rows])


def test_four_processes_that_write_one_file_lose_nothing(soft, tmp_path):
    """Each process adds its two examples one by one; a link to the file counts as the file."""
    path, link = tmp_path / "soft.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(path)
    processes = []
    for number in range(4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the child only works with arrays and files
            process = os.fork()
        if not process:
            for index in (2 * number, 2 * number + 1):
                part_of(soft, range(index, index + 1)).merge_into(link if number % 2 else path)
            os._exit(0)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 4
    stored = SoftLabels.load(path)
    assert link.is_symlink()
    np.testing.assert_array_equal(stored.keys, soft.keys)
    np.testing.assert_array_equal(stored.logits, soft.logits)


def test_overwriting_keeps_what_other_processes_wrote_since(soft, tmp_path):
    path = tmp_path / "soft.safetensors"
    part_of(soft, range(3)).save(path)
    before = file_state(path)
    assert len(part_of(soft, range(3, 5)).merge_into(path, replacing=before).keys) == 2
    assert len(part_of(soft, range(5, 6)).merge_into(path, replacing=before).keys) == 3
    with pytest.raises(InputError, match=r"the soft labels in .* are of revision"):
        replace(soft, revision="other").merge_into(path)
    assert len(SoftLabels.load(path).keys) == 3


def test_a_teacher_that_is_replaced_while_it_labels_is_noticed(teacher_folder, features, tmp_path, monkeypatch):
    compute = SoftLabels.compute

    def replaced(*args, **kwargs):
        build_teacher(seed=1).save_pretrained(teacher_folder)
        return compute(*args, **kwargs)

    monkeypatch.setattr(SoftLabels, "compute", replaced)
    path, revision = tmp_path / "soft.safetensors", teacher_revision(str(teacher_folder))
    with pytest.raises(InputError, match=rf"changed while it labelled \(revision {revision} before, files-.* now\)"):
        complete_soft_labels(path, str(teacher_folder), revision, [features])
    assert not path.exists()


def test_soft_labels_are_not_written_over_inputs_or_other_files(teacher_folder, tmp_path):
    data = DataArguments(dataset=str(tmp_path / "texts.csv"))
    (tmp_path / "texts.csv").write_text("text,label\ngood,1\n")
    weights = (teacher_folder / "model.safetensors").read_bytes()
    for path, message in (
        (teacher_folder / "model.safetensors", "lies beside the weights of the teacher"),
        (teacher_folder / "soft.safetensors", "lies beside the weights of the teacher"),
        (tmp_path / "texts.csv", "texts.csv is itself read by this command"),
        (tmp_path / "notes.txt", "notes.txt is no file of soft labels, so it is not overwritten"),
    ):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match=message):
            label(str(teacher_folder), data, path=path, overwrite=True)
    assert (teacher_folder / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.zeros((7, 2), np.float32)}, "keys for 7 examples"),
        ({"logits": np.zeros((8, 3), np.float32)}, r"shape \(8, 3\) for 2 labels"),
        ({"logits": np.zeros((8, 2), np.float64)}, "logits of the type float64"),
        ({"logits": np.full((8, 2), np.nan, np.float32)}, "not finite"),
        ({"keys": np.zeros((8, 4), np.uint8)}, r"keys of the type uint8 and the shape \(8, 4\)"),
        ({"offsets": np.array([0, 9], np.int64)}, "the offsets do not divide the logits"),
        ({"offsets": np.array([], np.int64)}, "offsets of the type"),
        ({"label_names": (1, 2)}, "label names"),
    ],
)
def test_soft_labels_that_do_not_fit_together_are_refused(soft, tmp_path, changes, message):
    replace(soft, **changes).save(tmp_path / "soft.safetensors")
    with pytest.raises(InputError, match=f"soft.safetensors are damaged .*{message}"):
        SoftLabels.load(tmp_path / "soft.safetensors")
