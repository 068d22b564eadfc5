"""`tkd-hf augment` makes new texts that `tkd-hf distill` can learn from."""

import pytest
from datasets import Dataset, load_dataset

from tkd_hf import TKDConfig, TKDForMaskedLM

from ..data.test_augmentation import build_mlm
from ..factories import FAST, TEXTS, WORDS, build_tokenizer, read_json


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
        ("--mlm {mlm} --words-from {teacher}/missing.txt", "missing.txt' is neither a local path"),
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
