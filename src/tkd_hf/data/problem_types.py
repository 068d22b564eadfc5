"""The kinds of problems that a student can learn, and everything that depends on the kind alone.

Code asks a `ProblemType` instead of comparing its name. What needs torch, datasets or transformers, which the command
line's options must not load, is in tables with one entry per problem type, each beside the code that uses it:

- `tkd_hf.data.labels.ENCODERS`: how the labels of a data set become codes or scores;
- `tkd_hf.models.architectures.AUTO_CLASSES`, by `head`: the class of transformers that loads a model;
- `tkd_hf.objectives.hard.HARD_LOSSES`: the loss against labels;
- `tkd_hf.objectives.divergences.SOFT_LOSSES`: the loss against a teacher's logits;
- `tkd_hf.objectives.logits.CONFIDENCES`: how sure a teacher is of a prediction;
- `tkd_hf.evaluation.predictions.DECISIONS`: the probabilities of predictions, whether they are right, and their names.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..core.errors import InputError


if TYPE_CHECKING:  # third-party packages that take seconds to import
    import numpy as np
    import torch
    from transformers import PretrainedConfig


Array = TypeVar("Array", "np.ndarray", "torch.Tensor")


class ProblemType(StrEnum):
    """A kind of problem: how logits become predictions, how labels are compared, and which metrics apply.

    A member equals its name as a string, so configurations, records and JSON hold plain names, and functions that take
    a problem type also take its name. `ProblemType(name)` raises `InputError` for a name that is none of these.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.data.problem_types import ProblemType
    >>> problem_type = ProblemType("multi_label_classification")
    >>> problem_type.predict(np.array([[2.0, -1.0, 0.5]])).tolist(), problem_type.per_token
    ([[1, 0, 1]], False)
    >>> problem_type.default_metrics(num_labels=3)
    ('f1_micro', 'f1_macro')

    ```
    """

    SINGLE_LABEL = "single_label_classification"
    MULTI_LABEL = "multi_label_classification"
    REGRESSION = "regression"
    # transformers' `config.problem_type` has no names for the following; the class of the model decides
    TOKEN_CLASSIFICATION = "token_classification"
    MASKED_LM = "masked_lm"
    ENCODER = "encoder"  # a model without a head

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise InputError(f"unknown problem type {value!r}; the problem types are {', '.join(cls)}")

    @classmethod
    def of_classifier(cls, config: "PretrainedConfig") -> "ProblemType":
        """Return the problem type of a classifier of texts.

        If the configuration has none, a single output means regression, and several outputs mean one label per text.
        """
        if config.problem_type:
            return ProblemType(config.problem_type)
        return cls.REGRESSION if config.num_labels == 1 else cls.SINGLE_LABEL

    @classmethod
    def of_class(cls, class_name: str) -> "ProblemType | None":
        """Return the problem type of a class of models; `None` if it solves several, and its configuration decides."""
        return next((member for member in cls if not member.in_config and class_name.endswith(member.head)), None)

    @property
    def head(self) -> str:
        """The end of the class names of transformers' models for the problem."""
        return _FACTS[self].head

    @property
    def per_token(self) -> bool:
        """Whether there is one prediction per token instead of one per text."""
        return _FACTS[self].per_token

    @property
    def in_config(self) -> bool:
        """Whether transformers' `config.problem_type` has a name for it. If not, the class of the model decides."""
        return self.head == _SEQUENCE_HEAD

    @property
    def has_logits(self) -> bool:
        """Whether models give logits: all but models without a head do."""
        return _FACTS[self].predict is not None

    @property
    def has_scores(self) -> bool:
        """Whether a prediction is a score, which has neither a class nor a confidence."""
        return self is ProblemType.REGRESSION

    @property
    def has_several_labels(self) -> bool:
        """Whether several labels of an example can be true together."""
        return self is ProblemType.MULTI_LABEL

    @property
    def predicts_tokens(self) -> bool:
        """Whether the classes are the tokens of the vocabulary: the collator makes the labels, and none has a name."""
        return self is ProblemType.MASKED_LM

    def predict(self, logits: Array) -> Array:
        """Return the predictions for logits, which may be an array of numpy or of torch.

        They are the class with the largest logit, every label with a logit above 0 (a probability above ½), or the
        score itself.

        Args:
            logits: (…, labels).

        Returns:
            (…,) codes or scores; for several labels per example (…, labels), multi-hot.

        Raises:
            ValueError: for models without a head.
        """
        predict = _FACTS[self].predict
        if predict is None:
            raise ValueError(f"a model of the problem type {self} has no head, so it predicts nothing")
        return predict(logits)

    def default_metrics(self, num_labels: int) -> tuple[str, ...]:
        """Return the metrics for data that names none, by number of labels.

        Two classes have the F1 of the second one, as in GLUE; more classes have the mean over the classes.
        """
        if self is ProblemType.SINGLE_LABEL and num_labels == 2:
            return ("accuracy", "f1")
        return _FACTS[self].metrics


class _Facts(NamedTuple):
    """What distinguishes a problem type: the head of its models, its prediction, its metrics, and what a row is."""

    head: str
    predict: Callable[[Any], Any] | None
    metrics: tuple[str, ...]
    per_token: bool = False


def _largest(logits: Any) -> Any:
    return logits.argmax(-1)


def _positive(logits: Any) -> Any:
    return (logits > 0) * 1


def _score(logits: Any) -> Any:
    return logits.squeeze(-1)


_SEQUENCE_HEAD = "ForSequenceClassification"
_FACTS = {
    ProblemType.SINGLE_LABEL: _Facts(_SEQUENCE_HEAD, _largest, ("accuracy", "f1_macro")),
    ProblemType.MULTI_LABEL: _Facts(_SEQUENCE_HEAD, _positive, ("f1_micro", "f1_macro")),
    ProblemType.REGRESSION: _Facts(_SEQUENCE_HEAD, _score, ("pearson", "spearman")),
    ProblemType.TOKEN_CLASSIFICATION: _Facts(
        "ForTokenClassification", _largest, ("entity_f1", "accuracy"), per_token=True
    ),
    ProblemType.MASKED_LM: _Facts("ForMaskedLM", _largest, (), per_token=True),
    ProblemType.ENCODER: _Facts("Model", None, ()),
}
