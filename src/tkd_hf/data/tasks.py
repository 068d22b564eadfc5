"""The tasks: which columns hold the text, what the labels are called, and what is measured."""

from dataclasses import dataclass, field

from ..errors import InputError


@dataclass(frozen=True)
class Task:
    """What a data set asks of a model.

    Args:
        name: the task's name; for GLUE also the name of its configuration on the Hub.
        text_columns: one column for single sentences, two for pairs, in the order in which the model reads them; for
            token classification one, of lists of words.
        metrics: names of metrics in `tkd_hf.evaluation.metrics`; the first one is the one to choose models by.
        label_names: the class names in the order of the label codes; empty for regression.
        label_column: the column that holds the codes, scores or lists of codes.
        problem_type: as in `transformers`: what the classification head is trained for; or `"token_classification"`.
        train_split, eval_split: names of the splits to train on and to evaluate on.
        dataset: the Hub id that holds the task.
        config: the configuration of that data set.

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
    problem_type: str = "single_label_classification"
    train_split: str = "train"
    eval_split: str = "validation"
    dataset: str = "nyu-mll/glue"
    config: str | None = field(default=None)

    @property
    def num_labels(self) -> int:
        """Width of the classification head: one output for regression."""
        return len(self.label_names) or 1


_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_PARAPHRASE = ("not_equivalent", "equivalent")
_PAIR = ("sentence1", "sentence2")

# The nine GLUE tasks (Wang et al. 2018, arXiv 1804.07461) with the columns, label names and metrics of the benchmark;
# MNLI's second validation set stands as a task of its own.
GLUE_TASKS = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("matthews_correlation",), ("unacceptable", "acceptable")),
        Task("sst2", ("sentence",), ("accuracy",), ("negative", "positive")),
        Task("mrpc", _PAIR, ("accuracy", "f1"), _PARAPHRASE),
        Task("stsb", _PAIR, ("pearson", "spearman"), problem_type="regression"),
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
    """The GLUE task of that name.

    Raises:
        InputError: if there is none, with the names there are.
    """
    if name not in GLUE_TASKS:
        raise InputError(
            f"unknown task {name!r}; the tasks are {', '.join(GLUE_TASKS)} (any other data goes through --dataset)"
        )
    return GLUE_TASKS[name]
