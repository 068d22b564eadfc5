"""Distilling on texts without labels, with or without labelled texts; and making such texts with `tkd-hf augment`."""

import re

import pytest
from datasets import Dataset, load_dataset

from tkd_hf import TKDConfig, TKDForMaskedLM

from ..data.test_augmentation import build_mlm
from ..factories import FAST, LABELS, TEXTS, WORDS, build_teacher, build_tokenizer, read_json


EXTRA = ["good story", "bad story", "good  film", "very dull film", "very dull film"]


@pytest.fixture
def extra(tmp_path):
    path = tmp_path / "extra.txt"
    path.write_text("\n".join(EXTRA) + "\n")
    return path


def test_unlabelled_texts_join_the_training_data_without_duplicates(
    run, tmp_path, teacher_folder, sst2_dir, extra, caplog
):
    data = ["--task", "sst2", "--data-dir", sst2_dir, "--unlabelled", extra]
    assert run("label", teacher_folder, *data, "--json", tmp_path / "l.json")[0] == 0
    labelled = read_json(tmp_path / "l.json")
    assert (labelled["examples"], labelled["computed"]) == (8 + 8 + 5, 8 + 3)

    args = [*data, "--layers", 1, "--output-dir", tmp_path / "s", *FAST.split(), "--logging-steps", 1]
    code, _, err = run("distill", teacher_folder, *args)
    assert code == 0
    message = "3 unlabelled examples; left out 1 already in the evaluation data, 1 already in the unlabelled data"
    assert message in caplog.text
    assert "soft labels:" not in err  # the file of `label` is used
    record = read_json(tmp_path / "s" / "tkd_run.json")
    assert "accuracy" in record["metrics"]

    extra.write_text("good story\n")
    code, _, err = run("distill", teacher_folder, *args, "--resume")
    assert (code, "unlabelled was '" in err) == (2, True)


def test_unlabelled_texts_of_the_evaluation_split_are_not_trained_on(
    run, tmp_path, teacher_folder, sst2_dir, monkeypatch
):
    class Stop(Exception):
        pass

    trained = []

    def spy(folder, trainer, *_):
        trained.extend(trainer.train_dataset["input_ids"])
        raise Stop

    monkeypatch.setattr("tkd_hf.commands.distill.train_into", spy)
    validation = sst2_dir / "sst2" / "validation.parquet"
    Dataset.from_dict({"sentence": ["very very good", "b b"], "label": [1, 0]}).to_parquet(validation)
    (tmp_path / "x.txt").write_text("Very very   good \nvery good\nb b\n")
    data = ["--task", "sst2", "--data-dir", sst2_dir, "--unlabelled", tmp_path / "x.txt", "--unlabelled", validation]
    with pytest.raises(Stop):
        run("distill", teacher_folder, *data, "--layers", 1, "--output-dir", tmp_path / "s", *FAST.split())
    assert trained == build_tokenizer()([*TEXTS, "very good"])["input_ids"]


def test_texts_without_labels_have_no_hard_loss(run, tmp_path, tokenizer, sst2_dir):
    """The mean over one labelled and one unlabelled example is half the loss of the labelled one."""
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    build_teacher(**dropout).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    (tmp_path / "x.txt").write_text("very dull film\n")
    Dataset.from_dict({"sentence": TEXTS[:1], "label": LABELS[:1]}).to_parquet(sst2_dir / "sst2" / "train.parquet")
    losses = {}
    for name, more in (("with", ["--unlabelled", tmp_path / "x.txt"]), ("without", [])):
        args = ["--task", "sst2", "--data-dir", sst2_dir, "--objectives", '{"hard": 1.0}', "--layers", 4, *more]
        args += ["--output-dir", tmp_path / name, *FAST.split(), "--logging-steps", 1]
        code, _, err = run("distill", tmp_path / "teacher", *args)
        assert code == 0
        losses[name] = float(re.search(r"'loss_hard': ([\d.]+)", err)[1])
    assert losses["with"] == pytest.approx(losses["without"] / 2, abs=1e-4)
    assert losses["with"] > 0.1


@pytest.mark.parametrize(
    ("problem_type", "labels", "metric", "expected"),
    [
        ("single_label_classification", ("no", "yes", "maybe"), "agreement", 1),
        ("multi_label_classification", ("a", "b", "c"), "agreement", 1),
        ("regression", (), "teacher_difference", 0),
    ],
)
def test_without_any_label_the_student_is_measured_against_the_teacher(
    run, tmp_path, tokenizer, problem_type, labels, metric, expected, caplog
):
    """Label names and problem type are the teacher's."""
    build_teacher(labels, problem_type=problem_type).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    (tmp_path / "d").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "d" / f"{split}.txt").write_text("\n".join(TEXTS))
    args = ["--dataset", tmp_path / "d", "--layers", 4, "--learning-rate", "1e-9", *FAST.split()]
    assert run("distill", tmp_path / "teacher", *args, "--output-dir", tmp_path / "s")[0] == 0
    assert "no column 'label' in the training data: learning from the teacher alone" in caplog.text
    record = read_json(tmp_path / "s" / "tkd_run.json")
    assert record["arguments"]["objectives"] == {"logits": 1.0}
    assert {"loss", "loss_logits"} <= set(record["metrics"])
    assert record["metrics"][metric] == pytest.approx(expected, abs=1e-5)  # the student is the teacher
    config = read_json(tmp_path / "s" / "config.json")
    assert config["problem_type"] == problem_type
    if labels:
        assert tuple(config["id2label"].values()) == labels

    assert run("distill", tmp_path / "teacher", *args, "--output-dir", tmp_path / "live", "--live")[0] == 0
    live = read_json(tmp_path / "live" / "tkd_run.json")["metrics"]
    assert live[metric] == pytest.approx(expected, abs=1e-5)


def test_labels_of_the_evaluation_split_are_used_without_training_labels(run, tmp_path, teacher_folder):
    """The label codes are those of the evaluation split, even if the teacher's order differs."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.txt").write_text("\n".join(TEXTS))
    names = [("positive", "negative")[label] for label in LABELS]
    Dataset.from_dict({"text": TEXTS, "label": names}).to_parquet(tmp_path / "d" / "validation.parquet")
    args = ["--dataset", tmp_path / "d", "--layers", 1, "--output-dir", tmp_path / "s", *FAST.split()]
    assert run("distill", teacher_folder, *args)[0] == 0
    metrics = read_json(tmp_path / "s" / "tkd_run.json")["metrics"]
    assert {"accuracy", "f1", "agreement"} <= set(metrics)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--unlabelled {folder}/missing.txt", "there is no file or folder"),
        ("--unlabelled {folder}/empty.txt", "empty.txt"),
        ("--unlabelled {folder}/known.txt", "none of the 1 unlabelled examples is new"),
        ("--unlabelled no/such:train", "'no/such' is neither a local path nor"),
    ],
)
def test_bad_unlabelled_sources_get_one_line_and_exit_code_2(run, tmp_path, teacher_folder, sst2_dir, args, message):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "known.txt").write_text("good film\n")
    filled = args.format(folder=tmp_path).split()
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    code, _, err = run("distill", teacher_folder, *data, *filled, "--output-dir", tmp_path / "s")
    last = err.strip().splitlines()[-1]
    assert (code, last.startswith("tkd-hf: "), message in last) == (2, True, True)
    assert not (tmp_path / "s").exists()


def test_objectives_that_need_labels_are_refused_without_labels(run, tmp_path, teacher_folder):
    (tmp_path / "d").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "d" / f"{split}.txt").write_text("\n".join(TEXTS))
    args = ["--dataset", tmp_path / "d", "--objectives", '{"hard": 1.0}', "--output-dir", tmp_path / "s"]
    code, _, err = run("distill", teacher_folder, *args)
    assert (code, "need labels, but the training data of d has no column 'label'" in err) == (2, True)


@pytest.mark.parametrize("written", ["{}", "[{}]"])
def test_a_recipe_names_one_unlabelled_source_or_a_list(run, tmp_path, teacher_folder, sst2_dir, extra, written):
    recipe = f"teacher: {teacher_folder}\nstages: [label: {{unlabelled: {written.format(extra)}}}]\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    args = ["--config", tmp_path / "recipe.yaml", "--task", "sst2", "--data-dir", sst2_dir]
    assert run("label", *args, "--json", tmp_path / "l.json")[0] == 0
    assert read_json(tmp_path / "l.json")["examples"] == 8 + 8 + len(EXTRA)


@pytest.fixture
def mlm(tmp_path, tokenizer):
    for save in (build_mlm().save_pretrained, tokenizer.save_pretrained):
        save(tmp_path / "mlm")
    return tmp_path / "mlm"


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "mrpc").mkdir()
    for split in ("train", "validation"):
        rows = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "label": [0, 1] * 4}
        Dataset.from_dict(rows).to_parquet(tmp_path / "mrpc" / f"{split}.parquet")
    return ["--task", "mrpc", "--data-dir", tmp_path]


def read(path):
    return load_dataset(path.suffix[1:].replace("jsonl", "json"), data_files=str(path), split="train")


def test_texts_by_a_masked_lm_are_reproducible_and_train_a_student(
    run, tmp_path, teacher_folder, sst2_dir, mlm, caplog
):
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    args = ["augment", *data, "--mlm", mlm, "--copies", 3, "--seed", 5]
    code, out, err = run(*args, "--output-dir", tmp_path / "x", "--json", tmp_path / "a.json")
    assert (code, "replacing words" in err, "new" in out) == (0, True, True)
    new = read(tmp_path / "x" / "train.parquet")
    assert read_json(tmp_path / "a.json")["metrics"] == {"examples": 8, "new": len(new)}
    assert new.column_names == ["text"]
    assert not set(TEXTS) & set(new["text"])

    assert run(*args, "--output-dir", tmp_path / "y")[0] == 0
    assert read(tmp_path / "y" / "train.parquet").to_dict() == new.to_dict()

    args = [*data, "--unlabelled", tmp_path / "x", "--layers", 1, "--output-dir", tmp_path / "s"]
    assert run("distill", teacher_folder, *args, *FAST.split())[0] == 0
    assert f"{len(new)} unlabelled examples" in caplog.text
    assert "unlabelled" in read_json(tmp_path / "s" / "tkd_run.json")["inputs"]


def test_pairs_by_a_tkd_masked_lm_use_only_the_words_of_a_file(run, tmp_path, pairs):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    TKDForMaskedLM(TKDConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(tmp_path / "tkd")
    build_tokenizer().save_pretrained(tmp_path / "tkd")
    Dataset.from_dict({"text": ["A good"], "text_pair": ["film."]}).to_parquet(tmp_path / "words.parquet")
    args = [*pairs, "--mlm", tmp_path / "tkd", "--probability", 1, "--output-dir", tmp_path / "x"]
    assert run("augment", *args, "--words-from", tmp_path / "words.parquet")[0] == 0
    new = read(tmp_path / "x" / "train.parquet")
    assert new.column_names == ["text", "text_pair"]
    assert {word for name in new.column_names for text in new[name] for word in text.split()} == {"a", "good", "film"}


def test_pairs_by_the_embeddings_of_a_teacher_resume_only_with_the_same_settings(run, tmp_path, pairs, teacher_folder):
    """A classifier will do: neither its head nor a mask token matters."""
    args = ["augment", *pairs, "--neighbours", teacher_folder, "--copies", 2, "--output-dir", tmp_path / "x"]
    assert run(*args)[0] == 0
    new = read(tmp_path / "x" / "train.parquet")
    assert new.column_names == ["text", "text_pair"]
    assert set(WORDS) >= {word for name in new.column_names for text in new[name] for word in text.split()}
    assert run(*args, "--resume")[0] == 0
    assert "candidates was 15, now 3" in run(*args, "--resume", "--candidates", 3)[2]


def test_shuffled_pairs_are_kept_on_resume_and_replaced_on_overwrite(run, tmp_path, pairs):
    args = ["augment", *pairs, "--shuffle-pairs", "--copies", 2, "--output-dir", tmp_path / "x"]
    assert run(*args)[0] == 0
    new = read(tmp_path / "x" / "train.parquet")
    assert set(new["text"]) | set(new["text_pair"]) == set(TEXTS)
    code, _, err = run(*args)
    assert (code, "already holds files; add --resume" in err) == (2, True)
    written = (tmp_path / "x" / "train.parquet").stat().st_mtime_ns
    assert run(*args, "--resume")[0] == 0
    assert (tmp_path / "x" / "train.parquet").stat().st_mtime_ns == written
    assert "copies was 2, now 3" in run(*args, "--resume", "--copies", 3)[2]
    assert run(*args, "--overwrite")[0] == 0
    assert (tmp_path / "x" / "train.parquet").stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "",
            "choose one of --mlm, --neighbours and --shuffle-pairs (given: mlm=None, neighbours=None and shuffle_pairs",
        ),
        ("--mlm {mlm} --shuffle-pairs", "choose one of --mlm, --neighbours and --shuffle-pairs"),
        ("--mlm {mlm} --neighbours {mlm}", "choose one of --mlm, --neighbours and --shuffle-pairs"),
        ("--neighbours no/such", "'no/such' is neither a folder with a loadable tokenizer nor"),
        ("--shuffle-pairs", "only pairs of texts can be shuffled"),
        ("--shuffle-pairs --words-from x", "words_from='x' limits the words that a model proposes; leave it out"),
        ("--mlm no/such", "'no/such' is neither a folder with a loadable tokenizer nor"),
        ("--mlm {teacher}", "is not a trained masked language model; `tkd-hf pretrain` makes one"),
        ("--mlm {maskless}", "has no mask token"),
        ("--mlm {mlm} --probability 0", "no new text came out of 8 examples; raise --copies or --probability"),
        ("--mlm {mlm} --words-from {teacher}/missing.txt", "there is no file or folder"),
        ("--mlm {mlm} --output-dir {mlm}/config.json", "config.json is a file; name a folder"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(run, tmp_path, teacher_folder, sst2_dir, mlm, args, message):
    maskless = build_tokenizer()
    maskless.mask_token = None
    for save in (build_mlm().save_pretrained, maskless.save_pretrained):
        save(tmp_path / "maskless")
    filled = args.format(mlm=mlm, teacher=teacher_folder, maskless=tmp_path / "maskless").split()
    if "--output-dir" not in filled:
        filled += ["--output-dir", tmp_path / "x"]
    code, _, err = run("augment", "--task", "sst2", "--data-dir", sst2_dir, *filled)
    last = err.strip().splitlines()[-1]
    assert (code, last.startswith("tkd-hf: "), message in last) == (2, True, True)
    assert not (tmp_path / "x" / "train.parquet").exists()
