"""Reading local files: csv and tsv row by row, paths literally, and a single file in two parts."""

import csv
import os
import socket
from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tkd_hf import InputError
from tkd_hf.core.names import POSITIONS
from tkd_hf.core.processes import log_once
from tkd_hf.data.arguments import DataArguments
from tkd_hf.data.delimited import iterate_rows, read_delimited, scan
from tkd_hf.data.files import read_file
from tkd_hf.data.hold_out import hold_out
from tkd_hf.data.loading import load_split, load_splits
from tkd_hf.data.tasks import get_task
from tkd_hf.data.tokenization import check_max_length, tokenize
from tkd_hf.data.unlabelled import read_unlabelled

from ..factories import build_tokenizer


TEXTS = st.text(
    st.sampled_from("ab \"',;\t\n\r|é😀0١") | st.characters(codec="utf-8", exclude_characters="\0"), max_size=12
)


def write(path, text):
    path.write_bytes(text.encode())
    return path


def read(path):
    return read_delimited(path, "x" + str(path.stat().st_mtime_ns)).to_list()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(["spam", "ham"])), min_size=1, max_size=6),
    st.sampled_from([".csv", ".tsv"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_what_the_csv_module_writes_is_read_as_it_is(tmp_path, rows, suffix, quoting):
    path = tmp_path / f"data{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter={".csv": ",", ".tsv": "\t"}[suffix], quoting=quoting)
        writer.writerows([("text", "pair", "label"), *rows])
    try:
        layout = scan(path)
    except InputError as error:  # only if every physical line happens to have three cells
        assume("can be read in two ways" not in str(error))
        raise
    read_rows = [tuple(row.values()) for row in iterate_rows(str(path), layout)]
    as_texts = [tuple("" if cell is None else cell for cell in row) for row in read_rows]
    assert layout.rows == len(rows)
    numbers = [index for index, kind in enumerate(layout.types) if kind != "string"]
    for written, row in zip(rows, as_texts, strict=True):
        for index, cell in enumerate(written):
            if index not in numbers:
                assert row[index] == cell
            elif row[index] != "":
                is_word = cell.casefold() in ("true", "false")
                assert row[index] == (cell.casefold() == "true" if is_word else float(cell))


@pytest.mark.parametrize(("suffix", "separator"), [(".tsv", "\t"), (".csv", ",")])
def test_texts_that_begin_with_a_stray_quotation_mark_swallow_no_rows(tmp_path, caplog, suffix, separator):
    """pandas reads 40 rows of these 60 without a word."""
    caplog.set_level("INFO", "tkd_hf")
    texts = [{10: '"so it says', 30: '"once more'}.get(i, f"text {i}") for i in range(60)]
    lines = [f"text{separator}label", *(f"{text}{separator}{i % 2}" for i, text in enumerate(texts))]
    rows = read(write(tmp_path / f"x{suffix}", "\n".join(lines) + "\n"))
    assert rows == [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    assert "quotation marks are therefore read as characters of the texts (60 rows)" in caplog.text


def test_a_swallowed_row_that_ends_like_a_quoted_cell_is_refused(tmp_path):
    """The first text begins with a mark and the second ends with one, so that both readings are consistent."""
    path = write(tmp_path / "x.tsv", 'text\tlabel\n"so it\t1\nsays"\t0\nfine\t1\n')
    with pytest.raises(InputError, match=r"read in two ways: as 2 rows, .* or as 3 rows"):
        scan(path)


def test_marks_within_a_text_and_quoted_cells_are_read_by_the_rules(tmp_path):
    path = write(tmp_path / "x.csv", 'text,label\nhe said "hi",a\n"so, ""it"" says\nthat",b\n\n"quoted",c\n')
    assert [row["text"] for row in read(path)] == ['he said "hi"', 'so, "it" says\nthat', "quoted"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,1\nb,2,3\n", r"the row at line 3 has 3 cells, but the header has 2"),
        ("text,label\na,1\nb\n", r"the row at line 3 has 1 cells, but the header has 2"),
        ('text,label\n"a, b",1\n"c\n', r"the quotation marks are not paired .*unexpected end of data"),
        ("", r"is empty; its first line must name the columns"),
        ("text,text\na,b\n", r"several columns 'text'"),
    ],
)
def test_rows_that_no_reading_explains_are_refused_with_their_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        scan(write(tmp_path / "x.csv", content))


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("text,label\ncafé,1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"no UTF-8 text .* at byte 14"):
        scan(path)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2", ""], [1, -2, None]),
        (["0.5", "2", "NA"], [0.5, 2.0, None]),
        (["True", "false", "TRUE"], [True, False, True]),
        (["007", "010", "1"], ["007", "010", "1"]),
        (["None", "null", "NA"], ["None", "null", "NA"]),
        (["9999999999", "1", "0"], [9999999999, 1, 0]),
        (["99999999999999999999", "1", "0"], [1e20, 1.0, 0.0]),
        (["+49", "1_000", "1"], ["+49", "1_000", "1"]),
    ],
)
def test_a_column_is_numeric_only_if_every_cell_is_a_number(tmp_path, cells, values):
    lines = [f"t{i},{cell}" for i, cell in enumerate(cells)]
    assert [row["x"] for row in read(write(tmp_path / "x.csv", "\n".join(["text,x", *lines])))] == values


def test_rows_are_those_of_the_file_although_its_size_and_time_are_the_same(tmp_path):
    """Copies with cp -p, rsync -t or tar keep the time of change, by which the cache of datasets knows a file."""
    contents = {
        "csv": ("text,label\nold,1\n", "text,label\nnew,0\n"),
        "jsonl": ('{"text": "old"}\n', '{"text": "new"}\n'),
        "txt": ("old\n", "new\n"),
    }
    for suffix, versions in contents.items():
        path = tmp_path / f"x.{suffix}"
        texts = []
        for version in versions:
            os.utime(write(path, version), (1_600_000_000, 1_600_000_000))
            texts.append(read_file(path, "train", "train")["text"][:])
        assert texts == [["old"], ["new"]]


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


def test_a_folder_is_split_only_if_it_holds_the_training_file_alone(tmp_path):
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
