"""Loading: every source and kind of label becomes `text`, `text_pair` and `label`; errors name the cause."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value

from tkd_hf import InputError
from tkd_hf.data.arguments import DataArguments
from tkd_hf.data.labels import ENCODERS
from tkd_hf.data.loading import load_split, load_splits
from tkd_hf.data.problem_types import ProblemType
from tkd_hf.data.tasks import GLUE_TASKS, Task, get_task, register_task
from tkd_hf.evaluation.metrics import METRICS
from tkd_hf.evaluation.predictions import DECISIONS
from tkd_hf.models.architectures import AUTO_CLASSES
from tkd_hf.objectives.divergences import SOFT_LOSSES
from tkd_hf.objectives.hard import HARD_LOSSES
from tkd_hf.objectives.logits import CONFIDENCES

from ..factories import FAST, read_json


SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(folder, train, validation=None, features=None, suffix="parquet"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", validation or train)):
        rows = Dataset.from_dict(rows, features=features)
        path = str(folder / f"{name}.{suffix}")
        {"parquet": rows.to_parquet, "csv": rows.to_csv, "json": rows.to_json}[suffix](path)
    return DataArguments(dataset=str(folder))


def test_a_problem_type_is_written_and_read_by_its_name():
    """Configurations, records and cards of earlier versions hold the names."""
    names = "single_label_classification multi_label_classification regression token_classification masked_lm encoder"
    assert json.loads(json.dumps(list(ProblemType))) == names.split() == [str(member) for member in ProblemType]
    assert all(ProblemType(name) is member for name, member in zip(names.split(), ProblemType, strict=True))
    assert Task("x", ("text",), (), problem_type="regression").problem_type is ProblemType.REGRESSION


def test_an_unknown_problem_type_is_refused_with_all_names():
    with pytest.raises(InputError, match=r"unknown problem type 'ranking'; .* single_label_classification, .*encoder"):
        ProblemType("ranking")


@pytest.mark.parametrize("to_array", [np.array, torch.tensor])
def test_predictions_depend_on_the_problem_type_for_numpy_and_torch(to_array):
    logits = to_array([[-1.0, 2.0], [3.0, 0.5]])
    for name in ("single_label_classification", "token_classification", "masked_lm"):
        assert ProblemType(name).predict(logits).tolist() == [1, 0]
    assert ProblemType.MULTI_LABEL.predict(logits).tolist() == [[0, 1], [1, 1]]
    assert ProblemType.REGRESSION.predict(logits[:, :1]).tolist() == [-1.0, 3.0]
    with pytest.raises(ValueError, match="encoder has no head"):
        ProblemType.ENCODER.predict(logits)


def test_every_table_by_problem_type_has_an_entry_for_each_that_it_serves():
    with_logits = {member for member in ProblemType if member.has_logits}
    assert set(AUTO_CLASSES) == {problem_type.head for problem_type in ProblemType}
    assert set(HARD_LOSSES) == set(SOFT_LOSSES) == with_logits
    assert set(CONFIDENCES) == {member for member in with_logits if not member.has_scores}
    assert set(DECISIONS) == {member for member in set(ENCODERS) if not member.has_scores}
    assert set(ENCODERS) == {member for member in with_logits if not member.predicts_tokens}


@pytest.mark.parametrize("problem_type", ProblemType)
def test_the_head_of_a_problem_type_is_the_ending_of_its_auto_class(problem_type):
    assert AUTO_CLASSES[problem_type.head].__name__.endswith(problem_type.head)


def test_the_nine_glue_tasks_are_built_in():
    assert set(GLUE_TASKS) - {"mnli-mm"} == set("cola sst2 mrpc stsb qqp mnli qnli rte wnli".split())


@pytest.mark.parametrize("task", GLUE_TASKS.values(), ids=GLUE_TASKS.keys())
def test_every_built_in_task_has_columns_metrics_and_label_names(task):
    assert 1 <= len(task.text_columns) <= 2
    assert set(task.metrics) <= set(METRICS)
    assert (task.problem_type == "regression") == (not task.label_names)
    assert task.num_labels == {"stsb": 1, "mnli": 3, "mnli-mm": 3}.get(task.name, 2)


def test_glue_tasks_use_the_metrics_of_the_benchmark():
    assert get_task("cola").metrics == ("matthews_correlation",)
    assert get_task("mrpc").metrics == get_task("qqp").metrics == ("accuracy", "f1")
    assert get_task("stsb").metrics == ("pearson", "spearman")


def test_an_unknown_task_is_refused_with_the_names_of_all_tasks():
    with pytest.raises(InputError, match=r"unknown task 'sst3'; the tasks are cola, sst2, .*--dataset"):
        get_task("sst3")


def test_a_task_from_outside_the_package_works_with_the_option_task(run, extension, tmp_path, teacher_folder):
    """The task of docs/extending.md is one definition and one call; here its data is a local folder, not a Hub id."""
    rows = {"review": ["good film", "dull", "fine", "not good"], "stars": ["good", "bad", "good", "bad"]}
    folder = write(tmp_path / "data", rows, suffix="csv").dataset
    register_task(replace(extension("Add a task by name").CUSTOMERS, dataset=folder))
    arguments = ["--task", "customers", "--output-dir", tmp_path / "model", *FAST.split()]
    assert run("finetune", teacher_folder, *arguments)[0] == 0
    code, out, err = run("evaluate", tmp_path / "model", "--task", "customers", "--json", tmp_path / "result.json")
    assert code == 0, err
    assert "customers (4)" in out
    assert list(read_json(tmp_path / "result.json")["models"][0]["metrics"]) == ["f1_macro", "accuracy"]
    assert read_json(tmp_path / "model" / "config.json")["id2label"] == {"0": "bad", "1": "good"}
    assert read_json(tmp_path / "model" / "tkd_run.json")["inputs"]["task"] == "customers"


def test_a_built_in_task_is_read_from_a_local_copy(sst2_dir):
    train, evaluation, task = load_splits(DataArguments(task="sst2", data_dir=str(sst2_dir)))
    assert train.column_names == ["text", "label"]
    assert (train[0], len(evaluation)) == ({"text": "good film", "label": 1}, 8)
    assert task.label_names == ("negative", "positive")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no local copies of GLUE beside the repository")
@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli", "mnli"])
def test_real_glue_tasks_have_the_expected_columns_and_labels(name):
    splits = {"train_split": "train_subset"} if name == "mnli" else {}
    train, evaluation, task = load_splits(DataArguments(task=name, data_dir=str(SHARED), **splits))
    columns = ["text", "text_pair", "label"] if len(task.text_columns) == 2 else ["text", "label"]
    assert train.column_names == evaluation.column_names == columns
    if task.label_names:
        assert set(train["label"]) == set(range(len(task.label_names)))
    else:
        assert 0 <= min(train["label"]) < max(train["label"]) <= 5


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
def test_class_names_as_labels_are_encoded_from_any_format(tmp_path, suffix):
    data = write(tmp_path / "d", {"text": ["x", "y", "z"], "label": ["pos", "neg", "pos"]}, suffix=suffix)
    train, task = load_split(data, "train")
    assert (task.label_names, train["label"][:]) == (("neg", "pos"), [1, 0, 1])
    assert task.metrics == ("accuracy", "f1")


def test_a_tsv_file_is_split_at_tabs_alone(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.tsv").write_text("text\tlabel\nx, y\tpos\nz\tneg\n")
    train, _ = load_split(DataArguments(dataset=str(tmp_path / "d")), "train")
    assert train["text"][:] == ["x, y", "z"]


def test_one_file_can_be_split_by_slices(tmp_path):
    write(tmp_path / "d", {"text": list("abcdefghij"), "label": ["x", "y"] * 5}, suffix="csv")
    data = DataArguments(dataset=str(tmp_path / "d/train.csv"), train_split="train[:80%]", eval_split="train[80%:]")
    train, evaluation, _ = load_splits(data)
    assert (train["text"][:], evaluation["text"][:]) == (list("abcdefgh"), list("ij"))


def test_a_split_without_some_class_is_encoded_like_the_others(tmp_path):
    data = write(tmp_path / "d", {"text": ["x", "y"], "label": ["a", "b"]}, {"text": ["z"], "label": ["b"]})
    _, evaluation, task = load_splits(data)
    assert (evaluation["label"][:], task.label_names) == ([1], ("a", "b"))
    assert load_split(data, "eval", fallback_label_names=("a", "b"))[0]["label"][:] == [1]


def test_label_names_of_the_data_override_those_of_a_model(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    data = write(tmp_path / "d", {"text": ["x", "y"], "label": [1, 0]}, features=features)
    assert load_split(data, "eval", fallback_label_names=("yes", "no"))[1].label_names == ("no", "yes")


def test_codes_without_names_get_generic_given_or_fallback_names(tmp_path):
    data = write(tmp_path / "d", {"text": ["x", "y", "z"], "label": [2, 0, 1]})
    _, task = load_split(data, "train")
    assert (task.label_names, task.metrics) == (("LABEL_0", "LABEL_1", "LABEL_2"), ("accuracy", "f1_macro"))
    given = DataArguments(dataset=data.dataset, label_names=("a", "b", "c"))
    assert load_split(given, "train")[1].label_names == ("a", "b", "c")
    assert load_split(data, "train", fallback_label_names=("a", "b", "c"))[1].label_names == ("a", "b", "c")
    with pytest.raises(InputError, match=r"label codes \[2\] have no name among the 2: \['a', 'b'\]"):
        load_split(DataArguments(dataset=data.dataset, label_names=("a", "b")), "train")


def test_float_labels_make_a_regression_task(tmp_path):
    train, task = load_split(write(tmp_path / "d", {"text": ["x", "y"], "label": [0.5, 2.0]}), "train")
    assert (task.problem_type, task.num_labels, task.metrics) == ("regression", 1, ("pearson", "spearman"))
    assert train.features["label"] == Value("float32")


def test_lists_of_names_make_a_multi_label_task(tmp_path):
    data = write(tmp_path / "d", {"text": ["x", "y", "z"], "label": [["b", "a"], [], ["b"]]})
    train, task = load_split(data, "train")
    assert (task.problem_type, task.label_names) == ("multi_label_classification", ("a", "b"))
    assert train["label"][:] == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]


def test_lists_of_codes_and_multi_hot_lists_are_encoded_alike(tmp_path):
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["a", "b", "c"]))})
    coded = write(tmp_path / "coded", {"text": ["x", "y"], "label": [[2], [0, 1]]}, features=features)
    multi_hot = write(tmp_path / "hot", {"text": ["x", "y"], "label": [[0, 0, 1], [1, 1, 0]]})
    for data in (coded, multi_hot):
        assert load_split(data, "train")[0]["label"][:] == [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]


def test_named_columns_give_pairs_and_labels(tmp_path):
    rows = {"q": ["x"], "a": ["y"], "score": [1.0], "id": [7]}
    folder = write(tmp_path / "d", rows).dataset
    data = DataArguments(dataset=folder, text_columns=("q", "a"), label_column="score")
    assert load_split(data, "train")[0][0] == {"text": "x", "text_pair": "y", "label": 1.0}


def test_hidden_labels_of_minus_1_are_dropped(tmp_path, sst2_dir):
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
        (
            {"text": ["x", None], "label": [0, 1]},
            {},
            r"column 'text' of d has empty texts in 1 of 2 rows \(row 2, counted from 1\); fill or drop them",
        ),
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
def test_unusable_data_is_refused_with_the_cause(tmp_path, rows, fields, message):
    folder = write(tmp_path / "d", rows).dataset
    with pytest.raises(InputError, match=message):
        load_splits(DataArguments(dataset=folder, **fields))


def test_files_with_a_wrong_or_unknown_ending_are_refused(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"split 'train' cannot be read from .*train.parquet: Parquet magic bytes"):
        load_split(DataArguments(dataset=str(tmp_path)), "train")
    (tmp_path / "x.doc").touch()
    with pytest.raises(InputError, match=r"ending '.doc'; the readable ones are .parquet"):
        load_split(DataArguments(dataset=str(tmp_path / "x.doc")), "train")


def test_an_unreachable_hub_id_is_refused_with_a_local_alternative():
    with pytest.raises(InputError, match=r"'no/such-data' is neither a local path nor can it be fetched.*local folder"):
        load_split(DataArguments(dataset="no/such-data"), "train")
    with pytest.raises(InputError, match=r"'nyu-mll/glue' .*--data-dir"):
        load_split(DataArguments(task="sst2"), "train")


def test_a_hub_data_set_is_requested_by_name_configuration_and_split(monkeypatch):
    requests = []

    def load(*args, split, **kwargs):
        requests.append((*args, split))
        return Dataset.from_dict({"sentence": ["x"], "label": [0]})

    monkeypatch.setattr("tkd_hf.data.loading.load_dataset", load)
    load_split(DataArguments(task="sst2"), "eval")
    load_split(DataArguments(dataset="org/data", config="small"), "train")
    assert requests == [("nyu-mll/glue", "sst2", "validation"), ("org/data", "small", "train")]


@pytest.mark.parametrize("names", [{}, {"task": "sst2", "dataset": "x"}])
def test_exactly_one_of_task_and_dataset_is_required(names):
    with pytest.raises(InputError, match="either --task or --dataset"):
        DataArguments(**names)
