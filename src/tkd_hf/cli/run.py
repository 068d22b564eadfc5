"""`tkd-hf run`: the stages of a recipe, one after another."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import InputError
from . import options as o
from .output import OptionsChecked, RecipePosition, at_position, write_json
from .recipe import Recipe


_MODELS = ("teacher", "model", "student")
_MAKE_NO_MODEL = ("augment", "report")
_OF_TEACHER = ("prune", "quantize")  # which need no student before them


def run(
    context: typer.Context,
    recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe (YAML).")],
    output_dir: Annotated[Path | None, typer.Option(help="Folder for the stages' folders.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local copies of tasks: DIR/TASK/SPLIT.parquet.")] = None,
    seed: o.Seed = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start all stages anew.")] = False,
    json_file: o.JsonFile = None,
):
    """Execute the stages of a recipe. What is done is skipped; after an interruption, the same command goes on.

    \b
    teacher: {model: my-org/my-teacher}   # or `model: my-org/encoder`, and finetune makes it
    data: {task: sst2}
    stages:
      - label:
      - distill: {layers: 3, objectives: {hidden: 1.0, attention: 1.0}}
      - distill: {objectives: {logits: 0.9, hard: 0.1}}
      - evaluate:
    output_dir: runs/sst2

    A stage is a command with its options, and has a folder of its own: runs/sst2/distill, runs/sst2/distill-2.

    Each goes on with what was made before it. Where there is no teacher, finetune makes it, and a second finetune
    after it goes on with that teacher (on another task first, say). Otherwise the student that pretrain, distill,
    prune or finetune made last is what the next distill starts from (`student: null` cuts a new one out of the
    teacher), and what prune, quantize, finetune and evaluate work on; without one, or with `model: null`, prune makes
    it of the teacher. What quantize made last is evaluated, but nothing is made of it: the next stage goes on with the
    student in floats. card is that student's, with what a report before it says. benchmark and report compare the
    teacher with all that was made, but for what a later distill went on with. What augment made is learned from by
    what follows. The teacher teaches pretrain, too (`teacher: null`: it does not). What a stage says itself wins.

    All stages are checked before the first is run. To run one of them anew, delete its folder.
    """
    recipe = Recipe.read(recipe_file)
    commands = {name: known for name, known in context.parent.command.commands.items() if name != context.info_name}
    flags = {"data_dir": data_dir and str(data_dir), "seed": seed}
    stages = _plan(recipe, commands, output_dir or recipe.output_dir, flags, overwrite)
    _check_stages(stages)
    results = []
    for stage in stages:
        results.append({"stage": stage.name, "output_dir": stage.folder, **(stage.execute() or {})})
        write_json(json_file, {"recipe": str(recipe_file), "stages": results})


@dataclass(frozen=True)
class _Stage:
    """A command with its values, and where it stands; `folder` is where it writes its run, if it does."""

    name: str
    command: TyperCommand
    values: dict[str, Any]
    folder: str | None
    number: int
    of: int

    def execute(self, check_only: bool = False) -> dict[str, Any] | None:
        """What the command returns; errors name the stage."""
        position = RecipePosition(f"stage {self.number} of {self.of}", self.number == self.of, check_only)
        try:
            missing = [p.name for p in self.command.params if p.required and p.name not in self.values]
            if missing:
                raise InputError(
                    f"lacks {', '.join(missing)}; name it in the stage, or at the top of the recipe for all stages"
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
    """The stages with all their values: what each takes from those before it stands in their folders by then."""
    if not recipe.stages:
        raise InputError(f"the recipe {recipe.path} has no stages; there are {', '.join(commands)}")
    stages, count = [], Counter()
    teacher, model, student, soft_labels, unlabelled = recipe.teacher, recipe.model, None, None, []
    report = None
    versions = []  # the classifiers that stages made
    quantized = None  # what was made of the model for use, which nothing more is made of
    for number, (name, options) in enumerate(recipe.stages, 1):
        if name not in commands:
            raise InputError(f"the recipe {recipe.path} has an unknown stage {name!r}; there are {', '.join(commands)}")
        count[name] += 1
        folder = name if count[name] == 1 else f"{name}-{count[name]}"
        if name in _OF_TEACHER and options.get("model", "") is None:  # said to be null
            options = options | {"model": teacher}
        worked_on = options.get("model") or (quantized if name == "evaluate" else None) or model
        worked_on = worked_on or (teacher if name in _OF_TEACHER else None)
        known = {parameter.name for parameter in commands[name].params}
        common = {
            "teacher": None if "model" in known and worked_on == teacher else teacher,  # no model is its own teacher
            "model": worked_on,
            "models": list(filter(None, dict.fromkeys([teacher, *versions, model]))) or None,
            "student": student,
            "report": report,
            "unlabelled": list(unlabelled) or None,
            "soft_labels": None if "teacher" in options else soft_labels,
            "output_dir": output_dir and str(Path(output_dir) / folder),
            "overwrite": overwrite,
            "resume": not options.get("overwrite", overwrite),
        }
        values = o.stage_values(commands[name], recipe, common, options)
        values |= {flag: value for flag, value in flags.items() if value is not None and flag in known}
        made = str(values["output_dir"]) if "output_dir" in values else None
        if made and made in [stage.folder for stage in stages]:
            raise InputError(f"the recipe {recipe.path} has two stages with the output_dir {made}; give each its own")
        stages.append(_Stage(name, commands[name], values, made, number, len(recipe.stages)))
        soft_labels = values.get("soft_labels", soft_labels)
        makes_teacher = made and name == "finetune" and not recipe.teacher and teacher in (None, worked_on)
        gone_on_with = teacher if makes_teacher else values.get("student") if name == "distill" else None
        versions = [version for version in versions if version != gone_on_with]
        versions += [made] if made and name not in ("pretrain", *_MAKE_NO_MODEL) else []
        if makes_teacher:
            student = None if worked_on == student else student  # a base that became the teacher is no student
            teacher = model = made
        elif name == "augment":
            unlabelled.append(made)
        elif name == "report":
            report = made
        elif name == "quantize":
            quantized = made
        elif made and name not in _MAKE_NO_MODEL:
            student, quantized = made, None
            if teacher or model is None or name == "prune":  # else the teacher is yet to be made of the recipe's model
                model = made
    return stages


def _check_stages(stages: list[_Stage]) -> None:
    """Finds the mistakes of all stages that show without work: a slip in the last must not cost the hours before it."""
    from ..data.tasks import get_task
    from ..model_loading import load_tokenizer

    made, found = set(), set()
    for stage in stages:
        stage.execute(check_only=True)
        if stage.values.get("task"):
            get_task(stage.values["task"])
        named = {str(stage.values[name]) for name in _MODELS if name in stage.values}
        for name in (named | set(stage.values.get("models", ()))) - made - found:
            load_tokenizer(name)
            found.add(name)
        made.add(stage.folder)
