"""`tkd-hf run`: run the stages of a recipe in order."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..core.errors import InputError, StopRequested
from . import options as o
from .output import OptionsChecked, RecipePosition, at_position, write_json
from .recipe import Recipe


_MODELS = ("teacher", "model", "student")
_WITHOUT_MODEL = ("augment", "report")  # stages whose folder holds no model
_WORK_ON_TEACHER = ("prune", "quantize")  # stages that work on the teacher until a student exists


def run(
    context: typer.Context,
    recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe (YAML).")],
    output_dir: Annotated[
        Path | None, o.option(help="Folder for the stages' folders (output_dir of the recipe).")
    ] = None,
    data_dir: Annotated[
        Path | None, o.option(help="Folder with copies of tasks, DIR/TASK/SPLIT.parquet (the Hub's).")
    ] = None,
    seed: Annotated[int | None, o.option(help="Random seed of all stages (that of each stage).")] = None,
    overwrite: Annotated[bool, o.option("--overwrite", help="Delete all runs and start again.")] = False,
    json_file: o.JsonFile = None,
):
    """Run the stages of a recipe in order. Finished stages are skipped, so the same command resumes a recipe.

    \b
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

    \b
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
    recipe = Recipe.read(recipe_file)
    commands = {name: command for name, command in context.parent.command.commands.items() if name != context.info_name}
    flags = {"data_dir": data_dir and str(data_dir), "seed": seed}
    stages = _plan(recipe, commands, output_dir or recipe.output_dir, flags, overwrite)
    _check_stages(stages)
    results = []
    for stage in stages:
        try:
            result = stage.execute() or {}
        except StopRequested as stop:
            stop.resumable = stop.resumable or bool(results)
            raise
        results.append({"stage": stage.name, "output_dir": stage.folder, **result})
        write_json(json_file, {"recipe": str(recipe_file), "stages": results})


@dataclass(frozen=True)
class _Stage:
    """A command with its values and its position in the recipe; `folder` is its output folder, if it has one."""

    name: str
    command: TyperCommand
    values: dict[str, Any]
    folder: str | None
    number: int
    total: int

    def execute(self, check_only: bool = False) -> dict[str, Any] | None:
        """Run the command, or only check its options, and return its results; errors name the stage."""
        position = RecipePosition(f"stage {self.number} of {self.total}", self.number == self.total, check_only)
        try:
            missing = [p.name for p in self.command.params if p.required and p.name not in self.values]
            if missing:
                raise InputError(
                    f"{', '.join(missing)} is missing; set it in the stage, or at the top of the recipe for all stages"
                )
            defaults, extras = o.option_defaults(self.command, self.values)
            with at_position(position), self.command.make_context(self.name, [], default_map=defaults) as context:
                context.meta[o.RECIPE_EXTRAS] = extras
                return self.command.invoke(context)
        except OptionsChecked:
            return None
        except (InputError, typer.BadParameter) as error:
            text = error.format_message() if isinstance(error, typer.BadParameter) else error
            raise InputError(f"{position.name}, {self.name}: {text}") from error


def _plan(
    recipe: Recipe, commands: dict[str, TyperCommand], output_dir: Path | str | None, flags: dict, overwrite: bool
) -> list[_Stage]:
    """Return the stages with all their values; outputs of earlier stages are inputs of later stages."""
    names = ", ".join(commands)
    if not recipe.stages:
        raise InputError(f"the recipe {recipe.path} has no stages; choose from {names}")
    stages, count = [], Counter()
    teacher, model, student, soft_labels, unlabelled = recipe.teacher, recipe.model, None, None, []
    report = None
    classifiers = []  # folders with classifiers for benchmark and report
    quantized = None  # the quantized model, on which only evaluate works
    for number, (name, options) in enumerate(recipe.stages, 1):
        if name not in commands:
            raise InputError(f"the recipe {recipe.path} has an unknown stage {name!r}; choose from {names}")
        count[name] += 1
        folder = name if count[name] == 1 else f"{name}-{count[name]}"
        if name in _WORK_ON_TEACHER and options.get("model", "") is None:  # `model: null` in the recipe
            options = options | {"model": teacher}
        input_model = options.get("model") or (quantized if name == "evaluate" else None) or model
        input_model = input_model or (teacher if name in _WORK_ON_TEACHER else None)
        parameters = {parameter.name for parameter in commands[name].params}
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
        values = o.stage_values(commands[name], recipe, common, options)
        values |= {flag: value for flag, value in flags.items() if value is not None and flag in parameters}
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
        elif name == "augment":
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
    from ..data.tasks import get_task
    from ..models.loading import load_tokenizer

    outputs, checked = set(), set()
    for stage in stages:
        stage.execute(check_only=True)
        if stage.values.get("task"):
            get_task(stage.values["task"])
        models = {str(stage.values[name]) for name in _MODELS if name in stage.values}
        for model in (models | set(stage.values.get("models", ()))) - outputs - checked:
            load_tokenizer(model)
            checked.add(model)
        outputs.add(stage.folder)
