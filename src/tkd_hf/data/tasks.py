"""The built-in tasks: which columns hold the text, how the classes are named, and which metrics apply.

To add a task, give a `Task` to `register_task`, here or outside this package. Loading, training, evaluation and model
cards read everything they need from it. Data without a name works as well: `tkd_hf.data.loading` builds a `Task` from
the data set itself.
"""

from dataclasses import dataclass, replace

from ..core.errors import InputError
from .problem_types import ProblemType


@dataclass(frozen=True)
class Task:
    """A data set and the problem it poses: its columns, labels, metrics and splits.

    Args:
        name: the name of the task.
        text_columns: one column for single texts, two for pairs, in the order in which the model reads them. For token
            classification, one column of lists of words.
        metrics: keys of `tkd_hf.evaluation.metrics.METRICS`. The first one selects the best checkpoint.
        label_names: class names in the order of the label codes; empty for regression.
        label_column: the column that holds the codes, scores or lists of codes.
        problem_type: a `ProblemType` or its name. It decides the loss and the form of the labels.
        train_split, eval_split: names of the splits for training and for evaluation.
        dataset: the data set: a Hub id, or a local file or folder as for `--dataset`.
        config: the configuration of a Hub data set; by default its own default.

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


TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Add a task to `TASKS`, so that `--task`, `DataArguments(task=…)` and recipes can name it.

    Args:
        task: the task. It replaces a task of the same name.

    Returns:
        The task.

    Example:

    ```python
    >>> from tkd_hf.data.tasks import TASKS, Task, get_task, register_task
    >>> reviews = Task("reviews", ("review",), ("accuracy",), ("negative", "positive"), dataset="my-org/reviews")
    >>> register_task(reviews) is get_task("reviews")
    True
    >>> del TASKS["reviews"]

    ```
    """
    TASKS[task.name] = task
    return task


_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_PARAPHRASE = ("not_equivalent", "equivalent")
_PAIR = ("sentence1", "sentence2")

# The nine GLUE tasks (Wang et al. 2018, arXiv 1804.07461) with the columns, label names and metrics of the benchmark.
# MNLI has two validation sets; the mismatched one is a task of its own.
_GLUE = (
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
for _task in _GLUE:  # GLUE has one configuration per task
    register_task(replace(_task, config=_task.config or _task.name))
GLUE_TASKS = TASKS  # the name of the registry in version 0.1.0


def get_task(name: str) -> Task:
    """Return the registered task of that name.

    Raises:
        InputError: if no task has that name; the message lists the names.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)} (use --dataset for any other data)")
    return TASKS[name]
