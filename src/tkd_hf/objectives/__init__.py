"""The training objectives, the terms of the loss that a student learns from. Each file defines one.

The loss of a `tkd_hf.DistillationTrainer` is the weighted sum of the objectives named in
`DistillationTrainingArguments(objectives={"logits": 0.9, "hard": 0.1})`. Each is also logged by itself, as
`loss_<name>`.

How to choose:

| name | it compares | it needs | use it |
| --- | --- | --- | --- |
| `logits` | the models' predicted distributions, or scores | a teacher, or its soft labels | always |
| `hard` | the student's predictions with the labels | labels | with a small weight, if there are labels |
| `hidden` | the outputs of mapped layers | a live teacher | in a stage before `logits`, to copy features |
| `embeddings` | the outputs of the embedding layers | a live teacher | together with `hidden` |
| `attention` | attention scores, head by head | a live teacher, equal numbers of heads | together with `hidden` |
| `cosine` | the directions of the last hidden states | a live teacher | instead of `hidden`, with no layer map |
| `relations` | how the tokens of the last layer relate | a live teacher | if widths or numbers of heads differ |

"A live teacher" runs on every batch and must have the student's tokenizer, because these objectives compare token with
token. `logits` and `hard` can do with soft labels that were computed once, so that no teacher runs during training.

Start with the default, `{"logits": 0.9, "hard": 0.1}`. If the student stays too far from its teacher, train it on
features first, for example on `{"embeddings": 1, "hidden": 3, "attention": 3}`, and then on the default in a second
stage. On STS-B this worked better than all objectives at once (docs/results.md). A bare encoder has no logits and
learns from features only.

To add an objective, subclass `Objective` (`base.py` says how) in a file of its own here, and add one line to
`OBJECTIVES`; outside this package, decorate it with `register_objective`. Options that it takes are fields of
`DistillationTrainingArguments`.
"""

from collections.abc import Callable
from typing import TypeVar

from .attention import AttentionScores
from .base import Objective
from .cosine import CosineDistance
from .embeddings import Embeddings
from .hard import HardLoss
from .hidden import HiddenStates
from .logits import LogitDistillation
from .relations import SelfAttentionRelations


OBJECTIVES: dict[str, type[Objective]] = {
    "logits": LogitDistillation,
    "hard": HardLoss,
    "hidden": HiddenStates,
    "cosine": CosineDistance,
    "attention": AttentionScores,
    "embeddings": Embeddings,
    "relations": SelfAttentionRelations,
}
_Objective = TypeVar("_Objective", bound=type[Objective])


def register_objective(name: str) -> Callable[[_Objective], _Objective]:
    """Add an objective to `OBJECTIVES`, so that training arguments, recipes and `--objectives` can name it.

    Use it as a decorator. Every process that trains with the objective must import the module that registers it.

    Args:
        name: the key in `objectives={…}`. It replaces an objective of the same name.

    Returns:
        The decorator, which returns the class.

    Example:

    ```python
    >>> from tkd_hf.objectives import OBJECTIVES, Objective, register_objective
    >>> @register_objective("difference")
    ... class LogitDifference(Objective):
    ...     @classmethod
    ...     def build(cls, setup):
    ...         return cls()
    ...
    ...     def forward(self, student, teacher, batch):
    ...         return (student.logits - teacher.logits).abs().mean()
    >>> OBJECTIVES.pop("difference") is LogitDifference
    True

    ```
    """

    def register(objective: _Objective) -> _Objective:
        OBJECTIVES[name] = objective
        return objective

    return register
