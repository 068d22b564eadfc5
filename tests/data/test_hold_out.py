"""Local data: paths are literal, misspelt ones are refused at once, and one file is split in two."""

import socket
from collections import Counter

import pytest
from datasets import Dataset

from tkd_hf import InputError
from tkd_hf.core.processes import log_once
from tkd_hf.data.arguments import DataArguments
from tkd_hf.data.hold_out import hold_out
from tkd_hf.data.loading import load_split, load_splits
from tkd_hf.data.tasks import get_task
from tkd_hf.data.tokenization import POSITIONS, check_max_length, tokenize
from tkd_hf.data.unlabelled import read_unlabelled

from ..factories import build_tokenizer


def csv_file(path, labels, texts=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = texts or [f"{path.parent.name} {i}" for i in range(len(labels))]
    path.write_text("\n".join(["text,label", *(f"{t},{x}" for t, x in zip(texts, labels, strict=True))]) + "\n")
    return str(path)


@pytest.mark.parametrize("name", ["data[1]", "d*", "what?", "x{a,b}", "a#b", ".hidden", "__x__"])
def test_a_folder_is_read_by_its_literal_name(tmp_path, name):
    """As a pattern, `data[1]` is the folder `data1`, and `d*` both."""
    for folder in ("data1", name):
        for split in ("train", "validation"):
            rows = Dataset.from_dict({"text": [f"{folder} 0", f"{folder} 1"], "label": [0, 1]})
            rows.to_parquet(tmp_path / folder / f"{split}.parquet")
    train, evaluation, _ = load_splits(DataArguments(dataset=str(tmp_path / name)))
    assert train["text"][:] == evaluation["text"][:] == [f"{name} 0", f"{name} 1"]


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_file_of_unlabelled_texts_is_read_by_its_literal_name(tmp_path, suffix):
    for name in ("t1", "t[1]"):
        text = f'{{"text": "{name}"}}' if suffix == "jsonl" else name
        (tmp_path / f"{name}.{suffix}").write_text(text + "\n")
    assert read_unlabelled([str(tmp_path / f"t[1].{suffix}")], get_task("sst2"))["text"][:] == ["t[1]"]


@pytest.mark.parametrize("name", ["reviws", "reviws/train.csv", "reviews/trian.csv", "x/y/z", "data.csv", "r*"])
def test_a_misspelt_path_is_refused_at_once_and_without_the_hub(tmp_path, monkeypatch, name):
    csv_file(tmp_path / "reviews/train.csv", [0, 1])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("asked the network"))
    similar = {"reviws": "reviews", "reviews/trian.csv": "reviews/train.csv"}
    with pytest.raises(InputError, match=r"there is no file or folder") as error:
        load_split(DataArguments(dataset=str(tmp_path / name)), "train")
    assert similar.get(name, "") in str(error.value)
    monkeypatch.chdir(tmp_path)
    if name != "reviws":  # which may be a data set on the Hub
        with pytest.raises(InputError, match=r"there is no file or folder"):
            load_split(DataArguments(dataset=name), "train")


def test_one_file_is_split_by_class_and_alike_in_every_call(tmp_path, caplog):
    caplog.set_level("INFO", "tkd_hf")
    log_once.cache_clear()
    data = DataArguments(dataset=csv_file(tmp_path / "all.csv", ["a"] * 200 + ["b"] * 100))
    train, evaluation, task = load_splits(data)
    assert (Counter(train["label"]), Counter(evaluation["label"])) == ({0: 180, 1: 90}, {0: 20, 1: 10})
    assert sorted(train["text"][:] + evaluation["text"][:]) == sorted(f"{tmp_path.name} {i}" for i in range(300))
    assert task.eval_split == "held out of train (30 of 300 examples, stratified, seed 42)"
    assert caplog.text.count("has no split to evaluate on: it is held out of train (30 of 300 examples") == 1
    again, _ = load_split(data, "eval", fallback_label_names=("b", "a"))
    assert again["text"][:] == evaluation["text"][:]


def test_a_folder_with_the_training_file_alone_is_split_and_one_with_a_test_file_is_not(tmp_path):
    csv_file(tmp_path / "d/train.csv", [0, 1] * 30)
    data = DataArguments(dataset=str(tmp_path / "d"))
    assert [len(rows) for rows in load_splits(data)[:2]] == [40, 20]
    csv_file(tmp_path / "d/test.csv", [0, 1])
    with pytest.raises(InputError, match=r"no split 'validation' .*found: test.csv, train.csv.*--eval-split"):
        load_splits(data)


def test_the_same_text_is_on_one_side_and_the_only_one_of_a_class_is_trained_on():
    texts = [f"text {i % 40}" for i in range(80)] + ["Text 7", "rare"]
    rows = Dataset.from_dict({"text": texts, "label": ["a"] * 40 + ["a"] * 40 + ["a", "b"]})
    train, evaluation = hold_out(rows, ("text",), "label")
    assert sorted(train + evaluation) == list(range(82))
    assert not {texts[i].casefold() for i in train} & {texts[i].casefold() for i in evaluation}
    assert 81 in train


def test_scores_are_held_out_evenly_over_their_range():
    rows = Dataset.from_dict({"text": [str(i) for i in range(400)], "label": [i / 100 for i in range(400)]})
    _, evaluation = hold_out(rows, ("text",), "label")
    assert [sum(low <= index < low + 100 for index in evaluation) for low in range(0, 400, 100)] == [10] * 4


def test_too_few_texts_are_all_trained_on_and_none_is_evaluated(tmp_path):
    data = DataArguments(dataset=csv_file(tmp_path / "all.csv", [0, 1]))
    assert len(load_split(data, "train")[0]) == 2
    with pytest.raises(InputError, match="too few different texts to hold some out"):
        load_split(data, "eval")


def test_texts_that_are_cut_are_counted_once(caplog):
    caplog.set_level("INFO", "tkd_hf")
    log_once.cache_clear()
    rows = Dataset.from_dict({"text": ["good", "good film good film", "good " * 6, "good film"]})
    for _ in range(2):
        assert len(tokenize(rows, build_tokenizer(), max_length=6)[2]["input_ids"]) == 6
    message = "1 of 4 texts (25.0%) are cut at 6 tokens; the longest has 8 (--max-length sets the number)"
    assert [record.getMessage() for record in caplog.records] == [message]


def test_a_length_beyond_the_positions_of_the_model_is_refused():
    tokenizer = build_tokenizer()
    setattr(tokenizer, POSITIONS, 16)
    assert check_max_length(tokenizer, 16) == 16
    with pytest.raises(InputError, match=r"max_length=24, but .* at most 16 tokens; choose --max-length 16 or less"):
        tokenize(Dataset.from_dict({"text": ["good"]}), tokenizer, max_length=24)
