"""The recipes: how each of them trains a student, as data.

A stage is `DistillationTrainingArguments` by name; the stages of a recipe share its steps equally. What is not said
here is the same for all: the teacher, the data, the number of steps, batches of 32, a peak learning rate of 2e-4 with a
linear warm-up and decay, and the start from layers of the fine-tuned teacher (also of the plain student, which never
sees the teacher's answers).
"""

from dataclasses import dataclass, replace


# Ours: the default that is compared with the other recipes, and taken apart in the ablation. It learns what the teacher
# computes first, and what it answers then, without dropout (results/README.md: how it came to be, what is still open)
FEATURES = {"embeddings": 1.0, "hidden": 3.0, "relations": 3.0}
ANSWERS = {"logits": 0.9, "hard": 0.1}
OURS = ({"objectives": FEATURES}, {"objectives": ANSWERS, "temperature": 2.0})
OUR_START, OUR_DROPOUT = "uniform", 0.0

COMPARED = ("plain", "distilbert", "tinybert", "ours")
TEMPERATURES = (1.0, 2.0, 5.0, 10.0)
SOFT_WEIGHTS = (0.5, 0.9, 1.0)
LEARNING_RATES = (1e-4, 2e-4, 5e-4, 1e-3)


@dataclass(frozen=True)
class Recipe:
    """How a student is trained.

    Args:
        about: one line for people.
        stages: arguments of each stage; a stage starts from the student of the one before.
        start: the teacher's layers that the student is built from, by the name of a layer map, or `"random"`.
        dropout: of the student; by default the teacher's.
    """

    about: str
    stages: tuple[dict, ...]
    start: str = "uniform"
    dropout: float | None = None


# Variants of ours to choose from; `tuning` runs them all on held-out training data. A name must start with "ours-".
FIRST, ANSWERED = OURS
ATTENTION_FIRST = {"objectives": {"embeddings": 1.0, "hidden": 3.0, "attention": 3.0}}
BOTH_FIRST = {"objectives": FEATURES | {"attention": 3.0}}
COSINE = {"objectives": {"logits": 0.625, "hard": 0.25, "cosine": 0.125}, "temperature": 2.0}
FADING = {"objectives": FEATURES, "final_objectives": ANSWERS, "temperature": 2.0}


def like_ours(about: str, stages: tuple[dict, ...], start: str = OUR_START) -> Recipe:
    """A recipe with our start and without dropout."""
    return Recipe(about, stages, start, OUR_DROPOUT)


# asked before ours was without dropout, which they have as the teacher has it
WITH_DROPOUT = {
    "ours-logits-only": Recipe("logits alone", (ANSWERED,)),
    "ours-skip-logits-only": Recipe("logits alone, every other layer", (ANSWERED,), start="skip"),
    "ours-hidden": Recipe("hidden states beside the answers", (ANSWERED | {"objectives": ANSWERS | {"hidden": 1.0}},)),
    "ours-skip": Recipe("features first, every other layer", OURS, start="skip"),
    "ours-then-cosine": Recipe("features first, cosine beside the answers", (FIRST, COSINE)),
    "ours-attention-first": Recipe("attention in place of relations", (ATTENTION_FIRST, ANSWERED)),
    "ours-both-first": Recipe("attention beside relations", (BOTH_FIRST, ANSWERED)),
    "ours-fading": Recipe("features, fading into answers", (FADING,)),
    "ours-skip-fading": Recipe("features, fading into answers, every other layer", (FADING,), start="skip"),
    "ours-dropout": Recipe("features first", OURS, OUR_START),
}
CANDIDATES = {
    "ours-both-no-dropout": like_ours("attention beside relations", (BOTH_FIRST, ANSWERED)),
    **{name: replace(recipe, about=f"{recipe.about}, with dropout") for name, recipe in WITH_DROPOUT.items()},
}


def recipes(layers: int) -> dict[str, Recipe]:
    """All recipes by name, for a student of that many layers."""
    compared = {
        "plain": Recipe("labels alone, no distillation", ({"objectives": {"hard": 1.0}},)),
        "distilbert": distilbert(),
        "tinybert": tinybert(layers),
        "ours": like_ours("ours", OURS),
    }
    beside = {
        "tinybert-no-dropout": replace(tinybert(layers), about="TinyBERT, without dropout", dropout=OUR_DROPOUT),
    }
    tuned = {
        f"{name}-lr{rate:g}": tune(recipe, rate)
        for name, recipe in (compared | CANDIDATES).items()
        for rate in LEARNING_RATES
    }
    return compared | beside | CANDIDATES | ablations() | softness() | tuned


def distilbert() -> Recipe:
    """DistilBERT (Sanh et al. 2019, arXiv 1910.01108): every other layer, soft + hard + cosine as 5 : 2 : 1, T = 2.

    The weights are those of the authors' training script; the hard loss is here the task's and not masked language
    modelling, since all recipes are run on the task.
    """
    objectives = {"logits": 0.625, "hard": 0.25, "cosine": 0.125}
    return Recipe("DistilBERT", ({"objectives": objectives, "temperature": 2.0},), start="skip")


def tinybert(layers: int) -> Recipe:
    """TinyBERT (Jiao et al. 2020, arXiv 1909.10351): embeddings, hidden states and attention first, then logits.

    Its loss is a sum over layers where `hidden` and `attention` are means, hence the weights. The authors give the
    first stage 20 of 23 epochs, on augmented data; of few steps, half each is kinder to it. T = 1 as theirs.
    """
    features = {"embeddings": 1.0, "hidden": float(layers), "attention": float(layers)}
    return Recipe(
        "TinyBERT",
        (
            {"objectives": features, "layer_map": "uniform"},
            {"objectives": {"logits": 1.0}, "temperature": 1.0},
        ),
    )


def ablations() -> dict[str, Recipe]:
    """Ours with one component off at a time."""
    titles = {"logits": "soft labels", "hard": "labels", "features": "features"}
    groups = {name: (name,) for name in FEATURES | ANSWERS} | {"features": tuple(FEATURES)}
    found = {
        f"ours-without-{name}": like_ours(f"without {titles.get(name, name)}", _less(group))
        for name, group in groups.items()
    }
    at_once = ANSWERED | {"objectives": FEATURES | ANSWERS}
    found["ours-at-once"] = like_ours("without stages: all at once", (at_once,))
    found["ours-temperature-1"] = like_ours("without temperature (T = 1)", (FIRST, ANSWERED | {"temperature": 1.0}))
    found["ours-skip-start"] = like_ours("from every other layer, the first among them", OURS, "skip")
    found["ours-random-start"] = like_ours("without the teacher's layers (random start)", OURS, "random")
    found["ours-dropout"] = CANDIDATES["ours-dropout"]
    return found


def _less(names: tuple[str, ...]) -> tuple[dict, ...]:
    """Our stages without some objectives; one that has none left gives its steps to the other."""
    left = [stage | {"objectives": _without(stage["objectives"], names)} for stage in OURS]
    return tuple(stage for stage in left if stage["objectives"])


def _without(objectives: dict[str, float], names: tuple[str, ...]) -> dict[str, float]:
    return {name: weight for name, weight in objectives.items() if name not in names}


def softness() -> dict[str, Recipe]:
    """Soft and hard labels alone: over temperatures, and over the weight of the soft ones."""
    grid = dict.fromkeys([(t, 0.9) for t in TEMPERATURES] + [(2.0, weight) for weight in SOFT_WEIGHTS])
    return {
        f"t{temperature:g}-w{weight:g}": Recipe(
            f"T = {temperature:g}, soft weight {weight:g}",
            ({"objectives": {"logits": weight, "hard": round(1 - weight, 6)}, "temperature": temperature},),
        )
        for temperature, weight in grid
    }


def tune(recipe: Recipe, learning_rate: float) -> Recipe:
    """The recipe at another learning rate."""
    stages = tuple(stage | {"learning_rate": learning_rate} for stage in recipe.stages)
    return replace(recipe, about=f"{recipe.about}, learning rate {learning_rate:g}", stages=stages)
