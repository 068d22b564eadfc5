"""Every source and kind of label ends in `text`, `text_pair` and `label`; what cannot be used is named."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from tkd_hf import InputError
from tkd_hf.data.loading import DataArguments, load_split, load_splits


SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(folder, train, validation=None, features=None, suffix="parquet"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", validation or train)):
        rows = Dataset.from_dict(rows, features=features)
        path = str(folder / f"{name}.{suffix}")
        {"parquet": rows.to_parquet, "csv": rows.to_csv, "json": rows.to_json}[suffix](path)
    return DataArguments(dataset=str(folder))


def test_a_task_from_a_local_copy(sst2_dir):
    train, evaluation, task = load_splits(DataArguments(task="sst2", data_dir=str(sst2_dir)))
    assert train.column_names == ["text", "label"]
    assert (train[0], len(evaluation)) == ({"text": "good film", "label": 1}, 8)
    assert task.label_names == ("negative", "positive")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no local copies of GLUE beside the repository")
@pytest.mark.parametrize("task", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli", "mnli"])
def test_real_glue(task):
    names = {"train_split": "train_subset"} if task == "mnli" else {}
    train, evaluation, about = load_splits(DataArguments(task=task, data_dir=str(SHARED), **names))
    columns = ["text", "text_pair", "label"][:: 1 if len(about.text_columns) == 2 else 2]
    assert train.column_names == evaluation.column_names == columns
    if about.label_names:
        assert set(train["label"]) == set(range(len(about.label_names)))
    else:
        assert 0 <= min(train["label"]) < max(train["label"]) <= 5


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
def test_names_as_labels_in_any_format(tmp_path, suffix):
    data = write(tmp_path / "d", {"text": ["x", "y", "z"], "label": ["pos", "neg", "pos"]}, suffix=suffix)
    train, task = load_split(data, "train")
    assert (task.label_names, train["label"][:]) == (("neg", "pos"), [1, 0, 1])
    assert task.metrics == ("accuracy", "f1")


def test_a_tab_separated_file(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.tsv").write_text("text\tlabel\nx, y\tpos\nz\tneg\n")
    train, _ = load_split(DataArguments(dataset=str(tmp_path / "d")), "train")
    assert train["text"][:] == ["x, y", "z"]


def test_one_file_in_slices(tmp_path):
    write(tmp_path / "d", {"text": list("abcdefghij"), "label": ["x", "y"] * 5}, suffix="csv")
    data = DataArguments(dataset=str(tmp_path / "d/train.csv"), train_split="train[:80%]", eval_split="train[80%:]")
    train, evaluation, _ = load_splits(data)
    assert (train["text"][:], evaluation["text"][:]) == (list("abcdefgh"), list("ij"))


def test_a_split_need_not_hold_every_class(tmp_path):
    data = write(tmp_path / "d", {"text": ["x", "y"], "label": ["a", "b"]}, {"text": ["z"], "label": ["b"]})
    _, evaluation, task = load_splits(data)
    assert (evaluation["label"][:], task.label_names) == ([1], ("a", "b"))
    assert load_split(data, "eval", fallback_label_names=("a", "b"))[0]["label"][:] == [1]


def test_class_labels_of_the_data_win_over_those_of_a_model(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    data = write(tmp_path / "d", {"text": ["x", "y"], "label": [1, 0]}, features=features)
    assert load_split(data, "eval", fallback_label_names=("yes", "no"))[1].label_names == ("no", "yes")


def test_codes_without_names(tmp_path):
    data = write(tmp_path / "d", {"text": ["x", "y", "z"], "label": [2, 0, 1]})
    _, task = load_split(data, "train")
    assert (task.label_names, task.metrics) == (("LABEL_0", "LABEL_1", "LABEL_2"), ("accuracy", "f1_macro"))
    named = DataArguments(dataset=data.dataset, label_names=("a", "b", "c"))
    assert load_split(named, "train")[1].label_names == ("a", "b", "c")
    assert load_split(data, "train", fallback_label_names=("a", "b", "c"))[1].label_names == ("a", "b", "c")
    with pytest.raises(InputError, match=r"label codes \[2\] have no name among the 2: \['a', 'b'\]"):
        load_split(DataArguments(dataset=data.dataset, label_names=("a", "b")), "train")


def test_scores_are_regression(tmp_path):
    train, task = load_split(write(tmp_path / "d", {"text": ["x", "y"], "label": [0.5, 2.0]}), "train")
    assert (task.problem_type, task.num_labels, task.metrics) == ("regression", 1, ("pearson", "spearman"))
    assert train.features["label"] == Value("float32")


def test_lists_of_names_are_multi_label(tmp_path):
    data = write(tmp_path / "d", {"text": ["x", "y", "z"], "label": [["b", "a"], [], ["b"]]})
    train, task = load_split(data, "train")
    assert (task.problem_type, task.label_names) == ("multi_label_classification", ("a", "b"))
    assert train["label"][:] == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]


def test_lists_of_named_codes_and_multi_hot_lists(tmp_path):
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["a", "b", "c"]))})
    coded = write(tmp_path / "coded", {"text": ["x", "y"], "label": [[2], [0, 1]]}, features=features)
    hot = write(tmp_path / "hot", {"text": ["x", "y"], "label": [[0, 0, 1], [1, 1, 0]]})
    for data in (coded, hot):
        assert load_split(data, "train")[0]["label"][:] == [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]


def test_named_columns_and_pairs(tmp_path):
    rows = {"q": ["x"], "a": ["y"], "score": [1.0], "id": [7]}
    folder = write(tmp_path / "d", rows).dataset
    data = DataArguments(dataset=folder, text_columns=("q", "a"), label_column="score")
    assert load_split(data, "train")[0][0] == {"text": "x", "text_pair": "y", "label": 1.0}


def test_hidden_labels_are_no_labels(tmp_path, sst2_dir):
    Dataset.from_dict({"sentence": ["x"], "label": [-1], "idx": [0]}).to_parquet(sst2_dir / "sst2/test.parquet")
    rows, _ = load_split(DataArguments(task="sst2", data_dir=str(sst2_dir), eval_split="test"), "eval")
    assert rows.column_names == ["text"]


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ({"a": ["x"], "label": [0]}, {}, r"which columns hold the text\? .*there are 'a', 'label'"),
        (
            {"text": ["x"], "label": [0]},
            {"text_columns": ("body",)},
            r"missing column 'body' .*there are 'text', 'label'",
        ),
        ({"text": ["x"], "label": [0]}, {"label_column": "y"}, r"no label column 'y'; the columns are 'text', 'label'"),
        ({"text": ["x", None], "label": [0, 1]}, {}, r"column 'text' of d has empty texts; fill or drop them"),
        ({"text": ["x", "y"], "label": ["a", None]}, {}, r"label column 'label' has empty entries"),
        ({"text": ["x", "y"], "label": ["a", "b"]}, {"label_names": ("a", "c")}, r"labels \['b'\] are not among"),
        ({"text": ["x"], "label": [[3, 1]]}, {}, r"neither of class names nor multi-hot"),
        (
            {"text": ["x"], "label": [0]},
            {"train_split": "dev"},
            r"no split 'dev' in .*found: train.parquet.*--train-split",
        ),
        (
            {"text": ["x"], "label": [0]},
            {"train_split": "train[a]"},
            r"split 'train\[a\]' cannot be read from .*train.parquet",
        ),
        ({"text": ["x"]}, {}, r"the train split of d has no column 'label' to learn from"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, rows, fields, message):
    folder = write(tmp_path / "d", rows).dataset
    with pytest.raises(InputError, match=message):
        load_splits(DataArguments(dataset=folder, **fields))


def test_a_file_that_is_not_what_it_says(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"split 'train' cannot be read from .*train.parquet: Parquet magic bytes"):
        load_split(DataArguments(dataset=str(tmp_path)), "train")
    (tmp_path / "x.doc").touch()
    with pytest.raises(InputError, match=r"ending '.doc'; the readable ones are .parquet"):
        load_split(DataArguments(dataset=str(tmp_path / "x.doc")), "train")


def test_a_hub_id_without_a_network():
    with pytest.raises(InputError, match=r"'no/such-data' is neither a local path nor can it be fetched.*local folder"):
        load_split(DataArguments(dataset="no/such-data"), "train")
    with pytest.raises(InputError, match=r"'nyu-mll/glue' .*--data-dir"):
        load_split(DataArguments(task="sst2"), "train")


def test_a_hub_data_set_is_asked_for_by_name_configuration_and_split(monkeypatch):
    asked = []

    def load(*args, split, **kwargs):
        asked.append((*args, split))
        return Dataset.from_dict({"sentence": ["x"], "label": [0]})

    monkeypatch.setattr("tkd_hf.data.loading.load_dataset", load)
    load_split(DataArguments(task="sst2"), "eval")
    load_split(DataArguments(dataset="org/data", config="small"), "train")
    assert asked == [("nyu-mll/glue", "sst2", "validation"), ("org/data", "small", "train")]


@pytest.mark.parametrize("names", [{}, {"task": "sst2", "dataset": "x"}])
def test_the_data_has_one_name(names):
    with pytest.raises(InputError, match="either --task or --dataset"):
        DataArguments(**names)
