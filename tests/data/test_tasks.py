"""GLUE as the benchmark defines it."""

import pytest

from tkd_hf import InputError
from tkd_hf.data.tasks import GLUE_TASKS, get_task
from tkd_hf.evaluation.metrics import METRICS


def test_the_nine_tasks_are_there():
    assert set(GLUE_TASKS) - {"mnli-mm"} == set("cola sst2 mrpc stsb qqp mnli qnli rte wnli".split())


@pytest.mark.parametrize("task", GLUE_TASKS.values(), ids=GLUE_TASKS.keys())
def test_a_task_is_complete(task):
    assert 1 <= len(task.text_columns) <= 2
    assert set(task.metrics) <= set(METRICS)
    assert (task.problem_type == "regression") == (not task.label_names)
    assert task.num_labels == {"stsb": 1, "mnli": 3, "mnli-mm": 3}.get(task.name, 2)


def test_glues_own_metrics():
    assert get_task("cola").metrics == ("matthews_correlation",)
    assert get_task("mrpc").metrics == get_task("qqp").metrics == ("accuracy", "f1")
    assert get_task("stsb").metrics == ("pearson", "spearman")


def test_an_unknown_task_names_those_there_are():
    with pytest.raises(InputError, match=r"unknown task 'sst3'; the tasks are cola, sst2, .*--dataset"):
        get_task("sst3")
