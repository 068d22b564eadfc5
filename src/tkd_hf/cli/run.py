"""`tkd-hf run`: run the stages of a recipe in order."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tkd_hf

from ..core.errors import InputError, StopRequested, did_you_mean
from ..core.files import check_output
from ..core.options import build, option, option_class
from .command import Command
from .output import RecipePosition, at_position, write_json
from .recipe import Recipe, stage_values
from .registry import COMMANDS


_MODELS = ("teacher", "model", "student")
_WITHOUT_MODEL = ("augment", "report")  # stages whose folder holds no model
_WORK_ON_TEACHER = ("prune", "quantize")  # stages that work on the teacher until a student exists


@option_class
class RunOptions:
    """Run the stages of a recipe in order. Finished stages are skipped, so the same command resumes a recipe.

        teacher: {model: my-org/my-teacher}   # or `model: my-org/encoder`, from which finetune makes the teacher
        data: {task: sst2}
        stages:
          - label:
          - distill: {layers: 3, objectives: {hidden: 1.0, attention: 1.0}}
          - distill: {objectives: {logits: 0.9, hard: 0.1}}
          - evaluate:
        output_dir: runs/sst2

    Each stage is a command with its options, and has its own folder: runs/sst2/distill, runs/sst2/distill-2. All stages
    are checked before the first one starts. To repeat a stage, delete its folder.

    Options of a stage win over these rules:

    - finetune makes the teacher if the recipe names none; the next finetune trains it further, for example on
      another task.
    - distill starts from the latest student that pretrain, distill, prune or finetune made; `student: null`
      cuts a new one out of the teacher.
    - prune, quantize, finetune and evaluate work on the latest student. Without one, or with `model: null`,
      prune and quantize work on the teacher.
    - evaluate measures the quantized model if quantize came last; every other stage continues with the float
      student.
    - pretrain learns from the teacher; `teacher: null` turns that off.
    - label, distill and prune use the texts that augment made.
    - benchmark and report compare the teacher with all models so far, except those that a later distill
      started from.
    - card describes the latest student and uses the latest report.
    """

    recipe: str | Path = option(positional=True, help="Recipe (YAML).")
    output_dir: str | Path | None = option(
        default=None, shown_default="output_dir of the recipe", help="Folder for the stages' folders."
    )
    data_dir: str | None = option(
        default=None,
        shown_default="fetched from the Hub",
        help="Folder with copies of the built-in tasks, DIR/TASK/SPLIT.parquet.",
    )
    seed: int | None = option(default=None, shown_default="that of each stage", help="Random seed of all stages.")
    overwrite: bool = option(default=False, help="Delete all runs and start again.")
    json: str | Path | None = option(default=None, help="File for the results of all stages as JSON.")


def run(values: dict[str, Any]) -> None:
    """Run a recipe; the values are those of `RunOptions`."""
    options = build(RunOptions, values)
    recipe = Recipe.read(Path(options.recipe))
    if options.json is not None:
        check_output(options.json, [options.recipe])
    flags = {"data_dir": options.data_dir, "seed": options.seed}
    stages = _plan(recipe, COMMANDS, options.output_dir or recipe.output_dir, flags, options.overwrite)
    _check_stages(stages)
    results: list[dict[str, Any]] = []
    for stage in stages:
        try:
            result = stage.run()
        except StopRequested as stop:
            stop.resumable = stop.resumable or bool(results)
            raise
        results.append({"stage": stage.name, "output_dir": stage.folder, **result})
        write_json(options.json, {"recipe": str(options.recipe), "stages": results})


@dataclass(frozen=True)
class _Stage:
    """A command with its values and its position in the recipe; `folder` is its output folder, if it has one."""

    name: str
    command: Command
    values: dict[str, Any]
    folder: str | None
    number: int
    total: int

    @property
    def position(self) -> RecipePosition:
        """Where in the recipe the stage is."""
        return RecipePosition(f"stage {self.number} of {self.total}", self.number == self.total)

    def check(self) -> None:
        """Build the options, and forget them.

        They are built again when the stage runs, because transformers sets up the device with the training arguments:
        those of another stage may ask for another precision.
        """
        self._named(self.command.build)

    def run(self) -> dict[str, Any]:
        """Run the command and return its results."""
        with at_position(self.position):
            return self._named(self.command.run)

    def _named(self, call: Callable[[dict[str, Any]], Any]) -> Any:
        """Call a function with the values; errors name the stage."""
        try:
            missing = ", ".join(option.name for option in self.command.missing(self.values))
            if missing:
                raise InputError(
                    f"{missing} is missing; set it in the stage, or at the top of the recipe for all stages"
                )
            return call(self.values)
        except InputError as error:
            raise InputError(f"{self.position.name}, {self.name}: {error}") from error


def _plan(
    recipe: Recipe, commands: dict[str, Command], output_dir: Path | str | None, flags: dict[str, Any], overwrite: bool
) -> list[_Stage]:
    """Return the stages with all their values; outputs of earlier stages are inputs of later stages."""
    names = ", ".join(commands)
    if not recipe.stages:
        raise InputError(f"the recipe {recipe.path} has no stages; choose from {names}")
    stages: list[_Stage] = []
    count: Counter[str] = Counter()
    teacher, model, student, soft_labels = recipe.teacher, recipe.model, None, None
    unlabelled: list[str] = []
    report: str | None = None
    classifiers: list[str] = []  # folders with classifiers for benchmark and report
    quantized: str | None = None  # the quantized model, on which only evaluate works
    for number, (name, options) in enumerate(recipe.stages, 1):
        if name not in commands:
            raise InputError(
                f"the recipe {recipe.path} has an unknown stage {name!r}; choose from {names}"
                f"{did_you_mean(name, commands)}"
            )
        count[name] += 1
        folder = name if count[name] == 1 else f"{name}-{count[name]}"
        if name in _WORK_ON_TEACHER and options.get("model", "") is None:  # `model: null` in the recipe
            options = options | {"model": teacher}
        input_model = options.get("model") or (quantized if name == "evaluate" else None) or model
        input_model = input_model or (teacher if name in _WORK_ON_TEACHER else None)
        parameters = {option.name for option in commands[name].all_options}
        common = {
            "teacher": None if "model" in parameters and input_model == teacher else teacher,
            "model": input_model,
            "models": list(filter(None, dict.fromkeys([teacher, *classifiers, model]))) or None,
            "student": student,
            "report": report,
            "unlabelled": list(unlabelled) or None,
            "soft_labels": None if "teacher" in options else soft_labels,
            "output_dir": output_dir and str(Path(output_dir) / folder),
            "overwrite": overwrite,
            "resume": not options.get("overwrite", overwrite),
        }
        values = stage_values(commands[name], recipe, common, options)
        values |= {flag: value for flag, value in flags.items() if value is not None and flag in parameters}
        if not {"task", "dataset"} & set(values):
            values.pop("data_dir", None)  # the stage uses the data of the run that it works on
        output = str(values["output_dir"]) if "output_dir" in values else None
        if output and output in [stage.folder for stage in stages]:
            raise InputError(f"the recipe {recipe.path} has two stages with the output_dir {output}; give each its own")
        stages.append(_Stage(name, commands[name], values, output, number, len(recipe.stages)))
        soft_labels = values.get("soft_labels", soft_labels)
        makes_teacher = output and name == "finetune" and not recipe.teacher and teacher in (None, input_model)
        superseded = values.get("student") if name == "distill" else None
        if makes_teacher:
            superseded = teacher
        classifiers = [classifier for classifier in classifiers if classifier != superseded]
        classifiers += [output] if output and name not in ("pretrain", *_WITHOUT_MODEL) else []
        if makes_teacher:
            student = None if input_model == student else student  # a base that became the teacher is not a student
            teacher = model = output
        elif name == "augment" and output:
            unlabelled.append(output)
        elif name == "report":
            report = output
        elif name == "quantize":
            quantized = output
        elif output and name not in _WITHOUT_MODEL:
            student, quantized = output, None
            # without a teacher, `model` stays the recipe's, from which finetune makes the teacher
            if teacher or model is None or name == "prune":
                model = output
    return stages


def _check_stages(stages: list[_Stage]) -> None:
    """Check the options, tasks and models of all stages: a typo in the last one must not show after hours of work."""
    outputs: set[str | None] = set()
    checked: set[str] = set()
    for stage in stages:
        stage.check()
        if stage.values.get("task"):
            tkd_hf.get_task(stage.values["task"])
        models = {str(stage.values[name]) for name in _MODELS if name in stage.values}
        for model in (models | set(stage.values.get("models", ()))) - outputs - checked:
            tkd_hf.load_tokenizer(model)
            checked.add(model)
        outputs.add(stage.folder)
