"""Recipes: YAML files with the teacher, the data and the stages of a job.

Values keep their YAML types; `tkd_hf.core.options.build` checks them against the options that they are for.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import InputError, did_you_mean
from ..core.options import options_of
from ..data.arguments import DataArguments
from .command import Command


KEYS = ("teacher", "model", "data", "stages", "output_dir")
MAX_VALUES = 10_000  # YAML aliases can expand a small file into more values than fit in memory


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe.

    Args:
        path: the file.
        teacher: folder or Hub id of the teacher.
        model: folder or Hub id of the model to fine-tune or evaluate.
        data: data options by name.
        stages: name and options of each stage, in order.
        output_dir: folder of the run; for `tkd-hf run`, the folder that contains the stages' folders.

    Example:

    ```python
    >>> from tempfile import TemporaryDirectory
    >>> from pathlib import Path
    >>> from tkd_hf.cli.recipe import Recipe
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "recipe.yaml"
    ...     _ = path.write_text('''
    ... teacher: {model: org/teacher, revision: v1}
    ... data: {task: sst2}
    ... stages:
    ...   - label:
    ...   - distill: {layers: 3, learning-rate: 2e-4}
    ... ''')
    ...     recipe = Recipe.read(path)
    >>> recipe.teacher, recipe.stages
    ('org/teacher@v1', (('label', {}), ('distill', {'layers': 3, 'learning_rate': '2e-4'})))

    ```
    """

    path: Path
    teacher: str | None = None
    model: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    stages: tuple[tuple[str, dict[str, Any]], ...] = ()
    output_dir: str | None = None

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read and check a recipe; an `InputError` names the file."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            raise InputError(f"the recipe {path} cannot be read: {' '.join(str(error).split())}") from None
        _check_size(content, path)
        if not isinstance(content, dict):
            raise InputError(
                f"the recipe {path} holds {type(content).__name__}, not the keys of a recipe ({', '.join(KEYS)})"
            )
        unknown = [str(name) for name in content if name not in KEYS]
        if unknown:
            raise InputError(
                f"the recipe {path} has unknown keys {', '.join(unknown)}; the keys are {', '.join(KEYS)}"
                f"{did_you_mean(unknown[0], KEYS)}"
            )
        data = content.get("data") or {}
        if not isinstance(data, dict):
            raise InputError(f"the recipe {path} has the data {data!r}; write them as `data: {{task: sst2}}`")
        stages = content.get("stages") or []
        if not isinstance(stages, list):
            raise InputError(f"the recipe {path} has the stages {stages!r}; write them as a list of `- name: {{}}`")
        return cls(
            path,
            teacher=_model_name(content.get("teacher"), "teacher", path),
            model=_model_name(content.get("model"), "model", path),
            data=_options(data),
            stages=tuple(_stage(stage, path) for stage in stages),
            output_dir=None if content.get("output_dir") is None else str(content["output_dir"]),
        )

    def data_options_for(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the recipe's data options for a stage; if the stage names its own data, only `data_dir` remains."""
        if not {"task", "dataset"} & set(options):
            return self.data
        return {name: value for name, value in self.data.items() if name == "data_dir"}


def command_values(command: Command, path: Path, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the values of one command: those of its stage in a recipe, overridden by flags.

    Args:
        command: the command.
        path: the recipe; it may have at most one stage of this command.
        flags: values from the command line. If they name the data, the recipe's data are left out.

    Raises:
        InputError: if the recipe is damaged, has several such stages, or names unknown options.
    """
    recipe = Recipe.read(path)
    stages = [options for name, options in recipe.stages if name == command.name]
    if len(stages) > 1:
        raise InputError(
            f"the recipe {path} has {len(stages)} stages named {command.name}; run all of them with `tkd-hf run {path}`"
        )
    options = stages[0] if stages else {}
    if {"task", "dataset"} & flags.keys():
        options = {name: value for name, value in options.items() if name not in ("task", "dataset")}
        options |= {name: flags[name] for name in ("task", "dataset") if name in flags}
    common = {"teacher": recipe.teacher, "model": recipe.model, "output_dir": recipe.output_dir}
    return stage_values(command, recipe, common, options) | flags


def stage_values(command: Command, recipe: Recipe, common: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Collect the values of one stage, by the names of options.

    Args:
        command: the stage's command.
        recipe: names the data of all stages that name none.
        common: values for all stages; those for which the command has no option are ignored.
        options: values of this stage. They override the common values, `null` included, and must all be known.

    Raises:
        InputError: for unknown names.
    """
    data_names = [option.name for option in options_of(DataArguments)]
    unknown = [name for name in recipe.data if name not in data_names]
    if unknown:
        raise InputError(
            f"the data of the recipe {recipe.path} has unknown keys {', '.join(unknown)}; "
            f"the keys are {', '.join(data_names)}{did_you_mean(unknown[0], data_names)}"
        )
    names = [option.name for option in command.all_options]
    unknown = [name for name in options if name not in names]
    if unknown:
        raise InputError(
            f"the recipe {recipe.path} sets {', '.join(unknown)}, but `tkd-hf {command.name}` has no such option"
            f"{did_you_mean(unknown[0], names)}"
        )
    own = command.own_names
    shared = {name: value for name, value in {**common, **recipe.data_options_for(options)}.items() if name in own}
    return {name: value for name, value in (shared | options).items() if value is not None}


def _check_size(content: Any, path: Path) -> None:
    """Refuse a recipe whose aliases expand into too many values, or refer to themselves."""
    pending, count = [content], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > MAX_VALUES:
            raise InputError(
                f"the recipe {path} expands into more than {MAX_VALUES} values; write it with fewer aliases"
            )
        if isinstance(value, (dict, list)):
            pending.extend(value.values() if isinstance(value, dict) else value)


def _stage(stage: Any, path: Path) -> tuple[str, dict[str, Any]]:
    if isinstance(stage, dict) and len(stage) == 1:
        ((name, options),) = stage.items()
        if options is None or isinstance(options, dict):
            return str(name), _options(options or {})
    raise InputError(f"the recipe {path} has the stage {stage!r}; write it as `- name: {{option: value}}`")


def _options(values: dict[str, Any]) -> dict[str, Any]:
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def _model_name(model: Any, key: str, path: Path) -> str | None:
    """Return a model's name, or `org/model@revision` if the recipe gives model and revision."""
    if model is None or isinstance(model, str):
        return model
    if not isinstance(model, dict):
        raise InputError(f"the recipe {path} has the {key} {model!r}; write its folder or Hub id")
    if "model" not in model or not set(model) <= {"model", "revision"}:
        names = ", ".join(map(str, model))
        raise InputError(f"the recipe {path} has a {key} with the keys {names}; the keys are model and revision")
    if not all(isinstance(part, str) for part in model.values()):
        raise InputError(f"the recipe {path} has the {key} {model!r}; put the model and its revision in quotes")
    return f"{model['model']}@{model['revision']}" if "revision" in model else model["model"]
