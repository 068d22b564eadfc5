"""What the student learns from: one objective a file, weighted by `DistillationTrainingArguments.objectives`.

An objective is an `Objective` (base.py), called as `objective(student, teacher, batch)` with the `Signals` of both
models; it returns its own component of the loss, a scalar, unweighted. A new one needs a file here and a line in
`OBJECTIVES`.
"""

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
