"""The experiments: which runs each consists of, in the order in which they tell most."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from recipes import CANDIDATES, COMPARED, LEARNING_RATES, ablations, softness
from sizes import Size
from study import Run


@dataclass(frozen=True)
class Experiment:
    """A grid of runs.

    Args:
        title: of its table.
        about: what is compared.
        recipes: by name, in the order of the table.
        settings: names of the size's settings, in the order of the columns.
        students: by number of layers.
        seeds: of each.
    """

    title: str
    about: str
    recipes: tuple[str, ...]
    settings: tuple[str, ...]
    students: tuple[int, ...]
    seeds: tuple[int, ...]

    def runs(self) -> list[Run]:
        """Every recipe on every task once, before the smaller student, before another seed."""
        grid = product(self.seeds, self.students, self.recipes, self.settings)
        return [Run(recipe, setting, layers, seed) for seed, layers, recipe, setting in grid]


def baseline(size: Size) -> Experiment:
    about = "Students trained on the labels alone. They start from the layers of the fine-tuned teacher, as all others."
    return Experiment(
        "Baseline without distillation", about, ("plain",), size.compared_tasks, size.students, size.seeds
    )


def temperature(size: Size) -> Experiment:
    about = "Soft and hard labels alone. The weight of the hard ones is 1 less that of the soft ones."
    return Experiment(
        "Temperature and soft weight", about, tuple(softness()), size.softness_tasks, size.students[:1], size.seeds[:1]
    )


def ablation(size: Size) -> Experiment:
    about = (
        "Our recipe, and each of its components off in turn. Beside it TinyBERT's, with dropout as BERT has it and "
        "without: of what ours gains, how much is that alone?"
    )
    names = ("ours", *ablations(), "tinybert", "tinybert-no-dropout")
    return Experiment("Ablation", about, names, size.taken_apart_tasks, size.students[:1], size.seeds[-1:])


def comparison(size: Size) -> Experiment:
    about = (
        "The recipes of DistilBERT and TinyBERT, the plain fine-tuned student, and ours: same teacher, same data, same "
        "number of steps, same learning rate. DistilBERT's student starts from the teacher's layers 1, 3, 5 "
        "(two layers: 1, 4) as its authors have it, the others from 2, 4, 6 (3, 6), counted from 1."
    )
    return Experiment("Recipes compared", about, COMPARED, size.compared_tasks, size.students, size.seeds)


def tuning(size: Size) -> Experiment:
    about = (
        "For choosing: learning rates of every recipe, and variants of ours, measured on a tenth of the training data "
        "on which neither teacher nor student was trained."
    )
    tuned = tuple(f"{name}-lr{rate:g}" for name in (*COMPARED, *CANDIDATES) for rate in LEARNING_RATES)
    return Experiment("Learning rates and variants", about, tuned, size.tuned_tasks, size.students, size.seeds[:1])


EXPERIMENTS: dict[str, Callable[[Size], Experiment]] = {
    "baseline": baseline,
    "temperature": temperature,
    "ablation": ablation,
    "comparison": comparison,
    "tuning": tuning,
}
