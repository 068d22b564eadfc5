"""Texts without labels: from any source, without repetitions and evaluation texts, and with a label that is ignored."""

import logging
import math

import pytest
from datasets import Dataset, Features, List, Value

from tkd_hf import InputError
from tkd_hf.data.tasks import Task, get_task
from tkd_hf.data.unlabelled import append_unlabelled, drop_duplicates, read_unlabelled


def rows(*texts, **columns):
    return Dataset.from_dict({"text": list(texts), **columns})


def test_each_line_of_a_text_file_is_a_text_except_blank_lines(tmp_path):
    (tmp_path / "x.txt").write_text('a film\n\n  \nnot, "good"\tone\ncafé\n', encoding="utf-8")
    assert read_unlabelled([str(tmp_path / "x.txt")], get_task("sst2"))["text"][:] == [
        "a film",
        'not, "good"\tone',
        "café",
    ]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
@pytest.mark.parametrize("columns", [("sentence1", "sentence2"), ("text", "text_pair")])
def test_pairs_are_read_in_the_order_of_the_task(tmp_path, suffix, columns):
    """The order of the columns in the file does not matter; labels and other columns are dropped."""
    table = Dataset.from_dict({"label": [1, 0], columns[1]: ["b", "d"], "idx": [0, 1], columns[0]: ["a", "c"]})
    path = tmp_path / f"x.{suffix}"
    getattr(table, f"to_{suffix}")(str(path))
    texts = read_unlabelled([str(path)], get_task("mrpc"))
    assert texts.to_dict() == {"text": ["a", "c"], "text_pair": ["b", "d"]}


def test_another_task_can_be_a_source_if_it_has_as_many_texts_per_example(tmp_path):
    """The columns are those of the source task, in its order."""
    for name, columns in (("mnli", ("premise", "hypothesis")), ("sst2", ("sentence",))):
        (tmp_path / name).mkdir()
        texts = {column: [f"{column} 1", f"{column} 2"] for column in reversed(columns)}
        Dataset.from_dict(texts | {"label": [2, 0]}).to_parquet(tmp_path / name / "train.parquet")
    pairs = read_unlabelled(["mnli", "mnli:train[:1]"], get_task("rte"), str(tmp_path))
    assert pairs["text"][:] == ["premise 1", "premise 2", "premise 1"]
    assert pairs["text_pair"][:] == ["hypothesis 1", "hypothesis 2", "hypothesis 1"]
    with pytest.raises(InputError, match="sst2 has the columns 'sentence', 'label'; rte needs 'sentence1' and"):
        read_unlabelled(["sst2"], get_task("rte"), str(tmp_path))


def test_several_sources_with_different_string_types_are_concatenated(tmp_path):
    (tmp_path / "x.txt").write_text("one\n")
    features = Features({"sentence": Value("large_string")})
    Dataset.from_dict({"sentence": ["two"]}, features=features).to_parquet(tmp_path / "y.parquet")
    (tmp_path / "folder").mkdir()
    for split in ("train", "test"):
        rows(split).to_parquet(tmp_path / "folder" / f"{split}.parquet")
    sources = [tmp_path / "x.txt", tmp_path / "y.parquet", tmp_path / "folder", f"{tmp_path / 'folder'}:test"]
    assert read_unlabelled(list(map(str, sources)), get_task("sst2"))["text"][:] == ["one", "two", "train", "test"]


def test_a_hub_data_set_is_requested_by_name_and_split(monkeypatch):
    requests = []

    def load(*args, split, **kwargs):
        requests.append((*args, split))
        return Dataset.from_dict({"sentence": ["x"], "label": [0]})

    monkeypatch.setattr("tkd_hf.data.loading.load_dataset", load)
    read_unlabelled(["org/name", "org/name:test[:10%]"], Task("t", ("sentence",), ()))
    assert requests == [("org/name", None, "train"), ("org/name", None, "test[:10%]")]


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("x.txt", b"", "sst2", r"x.txt"),
        ("x.txt", b"\n \n", "sst2", r"x.txt has no examples"),
        ("x.txt", b"caf\xe9\n", "sst2", r"split 'train' cannot be read from .*x.txt: .*utf-8"),
        (
            "x.txt",
            b"a\nb\n",
            "mrpc",
            r"x.txt has the columns 'text'; mrpc needs 'sentence1' and 'sentence2' or 'text' and",
        ),
        ("x.csv", b"", "sst2", r"x.csv is empty; its first line must name the columns"),
        ("x.csv", b"text,label\n", "sst2", r"x.csv"),
        ("x.csv", b"text,label\n3,1\n", "sst2", r"column 'text' of .*x.csv holds Value\('int64'\), not texts"),
        ("x.csv", b"text,label\na,1\n,0\n", "sst2", r"column 'text' of .*x.csv has empty texts"),
        ("x.csv", b"body\na\n", "sst2", r"x.csv has the columns 'body'; sst2 needs 'sentence' or 'text'"),
        ("x.pdf", b"a", "sst2", r"x.pdf has the ending '.pdf'; the readable ones are .*\.txt"),
        (None, None, "sst2", r"there is no file or folder .*missing.txt"),
    ],
)
def test_unreadable_sources_are_refused_with_the_cause_in_one_line(tmp_path, name, content, task, message):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_unlabelled([str(tmp_path / (name or "missing.txt"))], get_task(task))
    assert len(str(error.value).splitlines()) == 1


def test_duplicates_are_dropped_and_counted_by_where_they_occur(caplog):
    caplog.set_level(logging.INFO, "tkd_hf")
    train, evaluation = rows("Good  film", "both", label=[1, 0]), rows("dull", "both", label=[0, 0])
    extra = rows("good film", "new", "DULL ", "both", "new", "dull", "newer")
    assert drop_duplicates(extra, train, evaluation)["text"][:] == ["new", "newer"]
    for part in (
        "2 unlabelled examples",
        "1 already in the training",
        "3 already in the evaluation",
        "1 already in the unl",
    ):
        assert part in caplog.text
    with pytest.raises(
        InputError, match=r"none of the 1 unlabelled examples is new: left out 1 already in the evaluation"
    ):
        drop_duplicates(rows("both"), train, evaluation)


def test_a_pair_is_a_duplicate_only_if_both_texts_are_the_same():
    train = rows("a", "c", text_pair=["b", "d"])
    extra = rows("a", "c", "a", text_pair=["d", "d", "c"])
    assert drop_duplicates(extra, train, train).to_dict() == {"text": ["a", "a"], "text_pair": ["d", "c"]}


@pytest.mark.parametrize(
    ("label", "feature"),
    [(1, Value("int64")), (0.5, Value("float32")), ([1.0, 0.0, 1.0], List(Value("float32")))],
)
def test_unlabelled_rows_get_the_label_that_the_hard_loss_ignores(label, feature):
    train = Dataset.from_dict({"text": ["a"], "label": [label]}, Features({"text": Value("string"), "label": feature}))
    joined = append_unlabelled(train, rows("b"))
    assert joined.features == train.features
    assert joined["text"][:] == ["a", "b"]
    assert joined[0]["label"] == label
    missing = joined[1]["label"]
    if label == 1:
        assert missing == -100
    else:
        values = missing if isinstance(missing, list) else [missing]
        assert len(values) == (3 if isinstance(label, list) else 1)
        assert all(math.isnan(value) for value in values)


def test_training_data_without_labels_stays_without_labels():
    assert append_unlabelled(rows("a"), rows("b")).to_dict() == {"text": ["a", "b"]}
