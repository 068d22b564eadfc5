"""How each student of the paper's experiments is trained, as data.

A stage holds arguments of `DistillationTrainingArguments`; the stages of a recipe share its steps equally. Everything
else is the same for all: the teacher, the data, the number of steps, batches of 32 and a peak learning rate of 2e-4
with linear warm-up and decay. Every student starts from layers of the fine-tuned teacher, also the one that is trained
on the labels alone.
"""

from dataclasses import dataclass, replace


# our recipe: first the features of the teacher, then its logits, without dropout
FEATURES = {"embeddings": 1.0, "hidden": 3.0, "relations": 3.0}
PREDICTIONS = {"logits": 0.9, "hard": 0.1}
FIRST_STAGE = {"objectives": FEATURES}
SECOND_STAGE = {"objectives": PREDICTIONS, "temperature": 2.0}
NAMES = {"hidden": "hidden states", "logits": "soft labels", "hard": "labels"}  # of objectives, in recipes' names


@dataclass(frozen=True)
class Recipe:
    """How a student is trained.

    Args:
        stages: training arguments of each stage; a stage continues with the student of the one before.
        start: the teacher's layers that the student starts from, as a layer map; or `"random"` for random weights.
        dropout: the student's dropout; `None` means the teacher's.
    """

    stages: tuple[dict, ...]
    start: str = "uniform"
    dropout: float | None = None


OURS = Recipe((FIRST_STAGE, SECOND_STAGE), dropout=0.0)


def distilbert() -> Recipe:
    """Return DistilBERT's recipe (Sanh et al. 2019, arXiv 1910.01108): every other layer, temperature 2.

    The weights of soft labels, labels and cosine are 5 : 2 : 1 as in the authors' script. The hard loss is the task's
    and not that of masked language modelling, because all recipes run on the task.
    """
    objectives = {"logits": 0.625, "hard": 0.25, "cosine": 0.125}
    return Recipe(({"objectives": objectives, "temperature": 2.0},), start="skip")


def tinybert(layers: int) -> Recipe:
    """Return TinyBERT's recipe (Jiao et al. 2020, arXiv 1909.10351): features first, then logits, temperature 1.

    Its loss is a sum over layers; `hidden` and `attention` are means, hence their weights. The authors give the first
    stage 20 of 23 epochs on augmented data. With few steps, half of them for each stage is kinder to it.
    """
    features = {"embeddings": 1.0, "hidden": float(layers), "attention": float(layers)}
    predictions = {"objectives": {"logits": 1.0}, "temperature": 1.0}
    return Recipe(({"objectives": features, "layer_map": "uniform"}, predictions))


def compared(layers: int) -> dict[str, Recipe]:
    """Return the recipes that are compared."""
    return {
        "labels alone": Recipe(({"objectives": {"hard": 1.0}},)),
        "DistilBERT": distilbert(),
        "TinyBERT": tinybert(layers),
        "ours": OURS,
    }


def ablations() -> dict[str, Recipe]:
    """Return our recipe without one part at a time."""
    groups = {(name,): f"ours without {NAMES.get(name, name)}" for name in FEATURES | PREDICTIONS}
    groups[tuple(FEATURES)] = "ours without features"
    parts = {about: replace(OURS, stages=_without(names)) for names, about in groups.items()}
    one_stage = (SECOND_STAGE | {"objectives": FEATURES | PREDICTIONS},)
    return parts | {
        "ours in one stage": replace(OURS, stages=one_stage),
        "ours with temperature 1": replace(OURS, stages=(FIRST_STAGE, SECOND_STAGE | {"temperature": 1.0})),
        "ours from every other layer": replace(OURS, start="skip"),
        "ours from random weights": replace(OURS, start="random"),
        "ours with dropout": replace(OURS, dropout=None),
    }


def _without(names: tuple[str, ...]) -> tuple[dict, ...]:
    """Remove objectives from our stages; a stage without any objective gives its steps to the other."""
    stages = []
    for stage in OURS.stages:
        objectives = {name: weight for name, weight in stage["objectives"].items() if name not in names}
        if objectives:
            stages.append(stage | {"objectives": objectives})
    return tuple(stages)


def softness() -> dict[str, Recipe]:
    """Return recipes of soft labels and labels alone, over temperatures and over the weight of the soft labels."""
    grid = [(1.0, 0.9), (2.0, 0.9), (5.0, 0.9), (10.0, 0.9), (2.0, 0.5), (2.0, 1.0)]
    return {
        f"temperature {temperature:g}, soft weight {weight:g}": Recipe(
            ({"objectives": {"logits": weight, "hard": round(1 - weight, 6)}, "temperature": temperature},)
        )
        for temperature, weight in grid
    }


def recipes(layers: int) -> dict[str, Recipe]:
    """Return all recipes by name for a student of that many layers."""
    beside = {"TinyBERT without dropout": replace(tinybert(layers), dropout=0.0)}
    return compared(layers) | ablations() | beside | softness()
