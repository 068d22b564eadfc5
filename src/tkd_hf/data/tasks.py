"""The built-in tasks: which columns hold the text, how the classes are named, and which metrics apply.

To add a task, add one `Task` to `GLUE_TASKS`. Loading, training, evaluation and model cards read everything they need
from it. Data that has no entry here works as well: `tkd_hf.data.loading` builds a `Task` from the data set itself.
"""

from dataclasses import dataclass

from ..core.errors import InputError
from .problem_types import ProblemType


@dataclass(frozen=True)
class Task:
    """A data set and the problem it poses: its columns, labels, metrics and splits.

    Args:
        name: the name of the task. For GLUE it is also the name of the configuration on the Hub.
        text_columns: one column for single texts, two for pairs, in the order in which the model reads them. For token
            classification, one column of lists of words.
        metrics: keys of `tkd_hf.evaluation.metrics.METRICS`. The first one selects the best checkpoint.
        label_names: class names in the order of the label codes; empty for regression.
        label_column: the column that holds the codes, scores or lists of codes.
        problem_type: a `ProblemType` or its name. It decides the loss and the form of the labels.
        train_split, eval_split: names of the splits for training and for evaluation.
        dataset: the Hub id of the data set.
        config: the configuration of that data set; by default the name of the task.

    Example:

    ```python
    >>> from tkd_hf.data.tasks import get_task
    >>> get_task("mrpc").text_columns
    ('sentence1', 'sentence2')

    ```
    """

    name: str
    text_columns: tuple[str, ...]
    metrics: tuple[str, ...]
    label_names: tuple[str, ...] = ()
    label_column: str = "label"
    problem_type: ProblemType = ProblemType.SINGLE_LABEL
    train_split: str = "train"
    eval_split: str = "validation"
    dataset: str = "nyu-mll/glue"
    config: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "problem_type", ProblemType(self.problem_type))

    @property
    def num_labels(self) -> int:
        """The width of the classification head: the number of classes, or 1 for regression."""
        return len(self.label_names) or 1


_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_PARAPHRASE = ("not_equivalent", "equivalent")
_PAIR = ("sentence1", "sentence2")

# The nine GLUE tasks (Wang et al. 2018, arXiv 1804.07461) with the columns, label names and metrics of the benchmark.
# MNLI has two validation sets; the mismatched one is a task of its own.
GLUE_TASKS = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("matthews_correlation",), ("unacceptable", "acceptable")),
        Task("sst2", ("sentence",), ("accuracy",), ("negative", "positive")),
        Task("mrpc", _PAIR, ("accuracy", "f1"), _PARAPHRASE),
        Task("stsb", _PAIR, ("pearson", "spearman"), problem_type=ProblemType.REGRESSION),
        Task("qqp", ("question1", "question2"), ("accuracy", "f1"), ("not_duplicate", "duplicate")),
        Task("mnli", ("premise", "hypothesis"), ("accuracy",), _NLI, eval_split="validation_matched"),
        Task(
            "mnli-mm",
            ("premise", "hypothesis"),
            ("accuracy",),
            _NLI,
            eval_split="validation_mismatched",
            config="mnli",
        ),
        Task("qnli", ("question", "sentence"), ("accuracy",), _ENTAILMENT),
        Task("rte", _PAIR, ("accuracy",), _ENTAILMENT),
        Task("wnli", _PAIR, ("accuracy",), ("not_entailment", "entailment")),
    )
}


def get_task(name: str) -> Task:
    """Return the built-in task of that name.

    Raises:
        InputError: if no task has that name; the message lists the names.
    """
    if name not in GLUE_TASKS:
        raise InputError(
            f"unknown task {name!r}; the tasks are {', '.join(GLUE_TASKS)} (use --dataset for any other data)"
        )
    return GLUE_TASKS[name]
