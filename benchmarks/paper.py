"""The experiments of the TKD-NLP paper (arXiv 2405.11704) on what students learn, each one command.

    python benchmarks/paper.py comparison --encoder MINILM --data-dir DATA
    python benchmarks/paper.py baseline ablation temperature --encoder MINILM --data-dir DATA
    python benchmarks/paper.py comparison --quick

`baseline` trains without distillation, `temperature` varies the temperature and the weight of soft labels, `ablation`
removes one part of our recipe at a time, and `comparison` adds the recipes of DistilBERT and TinyBERT. The experiments
on precision and resources are in resources.py.

MINILM is a folder or Hub id of MiniLM-L6-H384, from which the teachers are fine-tuned, one for each seed. The teacher
of RTE learns MNLI first, since it stays at chance on RTE alone. A run that has a row in the result file is not
repeated; an interrupted run continues from its checkpoint.
"""

import shutil
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, set_seed

from common import environment, identity, parser_of, read_options, read_results, save_rows, say, tiny_model, tiny_task
from tkd_hf import (
    DataArguments,
    DistillationTrainingArguments,
    FineTuningArguments,
    StudentArguments,
    distill,
    evaluate,
    finetune,
    student_from_teacher,
)
from tkd_hf.data.loading import load_split
from tkd_hf.data.tasks import get_task
from tkd_hf.models.layer_map import layer_map


# --- how each student is trained, as data -----------------------------------------------------------------------------
#
# A stage holds arguments of `DistillationTrainingArguments`; the stages of a recipe share its steps equally. Everything
# else is the same for all: the teacher, the data, the number of steps, batches of 32 and a peak learning rate of 2e-4
# with linear warm-up and decay. Every student starts from layers of the fine-tuned teacher, also the one that is
# trained on the labels alone.

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


# --- the experiments --------------------------------------------------------------------------------------------------


KEY = ("recipe", "task", "layers", "seed")
QUICK_STEPS = 2
TRAINING = {
    "per_device_train_batch_size": 32,
    "learning_rate": 2e-4,
    "save_strategy": "steps",
    "save_steps": 200,
    "save_total_limit": 1,
    "report_to": "none",
}


@dataclass(frozen=True)
class Task:
    """A task of the experiments.

    Args:
        steps: optimizer steps of every recipe.
        epochs: epochs of fine-tuning the teacher.
        examples: training examples of the students, drawn with a fixed seed; `None` means all.
    """

    steps: int
    epochs: int = 5
    examples: int | None = None


@dataclass(frozen=True)
class Experiment:
    """A grid of runs: every recipe on every task, for students of these layers and with these seeds."""

    recipes: tuple[str, ...]
    tasks: tuple[str, ...]
    layers: tuple[int, ...]
    seeds: tuple[int, ...]

    def runs(self) -> list[tuple[str, str, int, int]]:
        """Return the runs, every recipe once before the next seed or size."""
        grid = product(self.seeds, self.layers, self.recipes, self.tasks)
        return [(recipe, task, layers, seed) for seed, layers, recipe, task in grid]


TASKS = {
    "sst2": Task(steps=1000, epochs=2, examples=20_000),
    "mrpc": Task(steps=344),
    "stsb": Task(steps=360),
    "cola": Task(steps=536),
    "rte": Task(steps=234),
}
COMPARED = tuple(compared(3))
ABLATED = ("ours", *ablations(), "TinyBERT", "TinyBERT without dropout")
EXPERIMENTS = {
    "baseline": Experiment(COMPARED[:1], tuple(TASKS), (3, 2), (0, 1, 2)),
    "comparison": Experiment(COMPARED, tuple(TASKS), (3, 2), (0, 1, 2)),
    "ablation": Experiment(ABLATED, ("stsb",), (3,), (2,)),  # the task with the smallest standard error
    "temperature": Experiment(tuple(softness()), ("mrpc", "cola"), (3,), (0,)),
}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "runs/paper")
    parser.add_argument("experiments", nargs="+", choices=list(EXPERIMENTS), metavar="EXPERIMENT")
    parser.add_argument("--encoder", help="folder or Hub id of the encoder that teachers are fine-tuned from")
    for name, kind in (("recipes", str), ("tasks", str), ("layers", int), ("seeds", int)):
        parser.add_argument(f"--{name}", nargs="+", type=kind, help=f"only these {name}")
    options = read_options(parser, arguments)
    if options.quick:
        make_quick(options)
    elif not options.encoder:
        parser.error("name the encoder of the teachers with --encoder, or try --quick")

    path = options.results
    for name in options.experiments:
        done = {identity(row, KEY) for row in read_results(path).get("paper", [])}
        runs = [run for run in EXPERIMENTS[name].runs() if run not in done and is_chosen(run, options)]
        for number, run in enumerate(runs, start=1):
            say(f"{name}, run {number} of {len(runs)}: {', '.join(map(str, run))}")
            row = train_and_measure(*run, options)
            command = "python benchmarks/paper.py comparison ablation temperature --encoder MINILM --data-dir DATA"
            save_rows(path, [row], key=KEY, section="paper", command=command)


def is_chosen(run: tuple, options) -> bool:
    """Return whether the options leave this run in."""
    chosen = (options.recipes, options.tasks, options.layers, options.seeds)
    return all(values is None or value in values for value, values in zip(run, chosen, strict=True))


def make_quick(options) -> None:
    """Write a tiny encoder and two tasks, and choose students of two layers."""
    options.encoder = tiny_model(options.work_dir / "encoder")
    options.tasks = options.tasks or ["sst2", "stsb"]
    for task in options.tasks:
        options.data_dir = tiny_task(options.work_dir / "data", task)
    options.layers = options.layers or [2, 3]


def train_and_measure(name: str, task: str, layers: int, seed: int, options) -> dict:
    """Train one student and return its row; the weights are deleted."""
    recipe, teacher, data = recipes(layers)[name], teacher_of(task, seed, options), data_of(task, options)
    folder = options.work_dir / "students" / f"{name.replace(' ', '-')}-{task}-{layers}l-s{seed}"
    student, steps = (
        start_of(recipe, teacher, layers, seed, folder),
        QUICK_STEPS if options.quick else TASKS[task].steps,
    )
    for number, stage in enumerate(recipe.stages, start=1):
        output_dir = str(folder / f"stage-{number}")
        common = arguments_of(options) | {"max_steps": steps // len(recipe.stages), "seed": seed}
        args = DistillationTrainingArguments(output_dir, **common | stage)
        record = distill(teacher, data, args, student, resume=True)
        student = StudentArguments(student=output_dir)
    evaluation = evaluate(student.student, data, teacher)
    teacher_result, result = evaluation.models
    shutil.rmtree(folder)
    return {
        **dict(zip(KEY, (name, task, layers, seed), strict=True)),
        "metrics": result.metrics,
        "agreement": result.agreement,
        "teacher": teacher_result.metrics,
        "teacher_revision": record.inputs["teacher_revision"],
        "examples": evaluation.examples,
        "steps": steps,
        "precision": "bf16" if args.bf16 else "fp32",
        **environment(),
    }


def arguments_of(options) -> dict:
    """Return the training arguments that all runs share."""
    quick = {"per_device_train_batch_size": 8, "use_cpu": True, "bf16": False} if options.quick else {}
    return TRAINING | quick


def teacher_of(task: str, seed: int, options) -> str:
    """Return the folder of the teacher with that seed; fine-tune it first if it is not there."""
    folder, model = options.work_dir / "teachers" / f"{task}-s{seed}", options.encoder
    common = arguments_of(options) | {"learning_rate": 1e-4, "seed": seed}
    if task == "rte":
        model = str(options.work_dir / "teachers" / f"mnli-s{seed}")
        steps = 1 if options.quick else 1200
        args = FineTuningArguments(model, max_steps=steps, **common)
        finetune(options.encoder, DataArguments("mnli", data_dir=options.data_dir), args, resume=True)
    length = {"max_steps": 1} if options.quick else {"num_train_epochs": TASKS[task].epochs}
    batch_size = {"per_device_train_batch_size": 64} if task == "sst2" and not options.quick else {}
    args = FineTuningArguments(str(folder), **common | batch_size | length)
    finetune(model, DataArguments(task, data_dir=options.data_dir), args, resume=True)
    return str(folder)


def data_of(name: str, options) -> DataArguments:
    """Return the data of a task; a part of the training examples is written once, drawn with a fixed seed."""
    data, count = DataArguments(name, data_dir=options.data_dir), TASKS[name].examples
    if count is None or options.quick:
        return data
    folder = options.work_dir / "data" / name
    if not (folder / "validation.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        columns = dict(zip(("text", "text_pair"), get_task(name).text_columns, strict=False))
        for split, file in (("train", "train"), ("eval", "validation")):
            rows = load_split(data, split)[0]
            rows = rows.shuffle(seed=0).select(range(count)) if split == "train" else rows
            rows.rename_columns(columns).to_parquet(folder / f"{file}.parquet")
    return DataArguments(name, data_dir=str(folder.parent))


def start_of(recipe: Recipe, teacher: str, layers: int, seed: int, folder: Path) -> StudentArguments:
    """Return the student to start from: layers of the teacher, or random weights that are saved first."""
    config = AutoConfig.from_pretrained(teacher)
    dropout = config.hidden_dropout_prob if recipe.dropout is None else recipe.dropout
    if recipe.start != "random":
        return StudentArguments(tuple(layer_map(recipe.start, layers, config.num_hidden_layers)), dropout=dropout)
    path = folder / "random"
    if not path.exists():
        set_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(teacher)
        dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        shape = student_from_teacher(model, num_hidden_layers=layers, **dropouts)
        type(shape)(shape.config).save_pretrained(path)
        AutoTokenizer.from_pretrained(teacher).save_pretrained(path)
    return StudentArguments(student=str(path))


if __name__ == "__main__":
    main()
