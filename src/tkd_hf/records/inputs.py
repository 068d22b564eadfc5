"""What decides the result of a run: its data and training arguments, as a record keeps, compares and recalls them."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import hf_hub_download
from transformers import PreTrainedModel, TrainingArguments

from ..core.errors import InputError
from ..core.names import label_names, split_revision
from ..data.arguments import DataArguments
from ..data.tasks import TASKS, Task


# Fields of the training arguments that cannot change the weights or the metrics of a run, by the reason. Resuming
# compares every other field, so a field that a new version of transformers adds is compared until it is listed here.
NO_EFFECT = {
    "where the run is written, and what it is called": "output_dir logging_dir run_name project",
    "what is logged and reported": (
        "logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level "
        "log_level_replica disable_tqdm report_to trackio_space_id trackio_bucket_id trackio_static_space_id "
        "include_num_input_tokens_seen skip_memory_metrics debug"
    ),
    "what is uploaded": (
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision"
    ),
    "which checkpoints are kept": "save_total_limit save_only_model save_on_each_node enable_jit_checkpoint",
    "how the evaluation split is cut into batches": (
        "per_device_eval_batch_size eval_accumulation_steps eval_do_concat_batches eval_use_gather_object"
    ),
    "how fast batches are fetched": (
        "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
        "dataloader_multiprocessing_context torch_empty_cache_steps"
    ),
    "on which device; how processes talk (the precision and the examples per step are compared)": (
        "use_cpu local_rank ddp_backend ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout"
    ),
    "not read in training": "do_train do_eval do_predict resume_from_checkpoint",
    "an input of the run, compared by its revision": "teacher",
}
# When a run is evaluated. It matters, because the data loader of each evaluation draws a random number, which shifts
# the dropout of later steps. Records of version 0.1.0 do not hold it.
_EVALUATIONS = "eval_strategy eval_steps eval_delay eval_on_start".split()
# When a run is saved, and by which metric checkpoints are compared. It matters only if an evaluation decides about the
# weights or the learning rate.
_ON_THE_WAY = "save_strategy save_steps metric_for_best_model greater_is_better".split()
_SCHEDULERS_WITH_EVALUATION = ("reduce_lr_on_plateau", "greedy")
_IGNORED = frozenset(name for names in NO_EFFECT.values() for name in names.split())
_FLOATS = "learning_rate num_train_epochs warmup_steps weight_decay temperature final_temperature".split()
# Their product, the number of examples per step, decides the result.
_EXAMPLES_PER_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps", "devices")
# Fields of `inputs` that later commands read, but that resuming does not compare: the fingerprints stand for the data,
# which may have been moved since, and the names of the classes are missing in records of version 0.1.0.
_DATA, _CLASSES = "data", "classes"
_EMPTY: tuple[Any, ...] = (None, "", [], {}, ())


def fingerprint(examples: Dataset) -> str:
    """Return a short hash of the examples' columns and values, in order."""
    digest = hashlib.sha256()
    for column in sorted(examples.column_names):
        digest.update(column.encode())
        for value in examples[column]:
            digest.update(repr(value).encode())
            digest.update(b"\0")
    return digest.hexdigest()[:16]


def teacher_revision(teacher: str | PreTrainedModel) -> str:
    """Return what identifies a teacher's weights: the commit of a Hub model, or a hash.

    Args:
        teacher: a Hub id (`org/model@revision` pins a revision), a folder, or a model in memory. A folder is hashed by
            its files, without loading the model; a model in memory by its weights and label names.

    Returns:
        `"commit-…"`, `"files-…"` or `"state-…"`. The forms of one model differ, so soft labels that were computed with
        one do not match another.
    """
    digest = hashlib.sha256()
    if isinstance(teacher, PreTrainedModel):
        for name, tensor in sorted(teacher.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        digest.update(json.dumps(label_names(teacher.config)).encode())
        return f"state-{digest.hexdigest()[:16]}"
    folder = Path(teacher)
    if not folder.is_dir():
        name, revision = split_revision(teacher)
        return f"commit-{Path(hf_hub_download(name, 'config.json', revision=revision)).parent.name}"
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    for path in [folder / "config.json", *(path for path in weights if path.name != "training_args.bin")]:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"files-{digest.hexdigest()[:16]}"


def data_inputs(
    data: DataArguments, train: Dataset, evaluation: Dataset, task: Task, unlabelled: Dataset | None = None
) -> dict[str, Any]:
    """Return the entries about the data in a training stage's record.

    They are the task's name, its data set on the Hub (for a local file or folder nothing), its splits and classes,
    fingerprints of the examples, and how to load the data again.
    """
    inputs: dict[str, Any] = {"task": task.name, "train": fingerprint(train), "eval": fingerprint(evaluation)}
    if not Path(task.dataset).exists():
        inputs["dataset"] = task.dataset
        if task.config:
            inputs["config"] = task.config
    inputs["splits"] = {"train": task.train_split, "eval": task.eval_split}
    if unlabelled:
        inputs["unlabelled"] = fingerprint(unlabelled)
    return {**inputs, _CLASSES: list(task.label_names), _DATA: data_fields(data)}


def data_fields(data: DataArguments) -> dict[str, Any]:
    """Return the fields of data arguments that differ from their defaults; local paths are made absolute.

    Later commands find local data from any folder, and `redacted_record` recognises the paths.
    """
    values = {field.name: getattr(data, field.name) for field in fields(data)}
    defaults = {field.name: field.default for field in fields(data)}
    for name in ("dataset", "data_dir"):
        if values[name] and Path(values[name]).exists():
            values[name] = str(Path(values[name]).absolute())
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != defaults[name]
    }


def recorded_data_arguments(inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> DataArguments | None:
    """Return the data that a stage's record names.

    Records of version 0.1.0 name only tasks of GLUE completely. A published record holds no local paths, so it names no
    local data.

    Args:
        inputs, arguments: the fields of a record.

    Returns:
        The data, or `None` if the record does not tell how to load them.

    Raises:
        InputError: if the record is damaged.
    """
    recorded = inputs.get(_DATA)
    if recorded is None:
        if inputs.get("task") not in TASKS:
            return None
        splits = {f"{name}_split": split for name, split in (inputs.get("splits") or {}).items()}
        recorded = {"task": inputs["task"], "max_length": arguments.get("max_length") or 128, **splits}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()
    }
    if wrong := [name for name, value in values.items() if not isinstance(value, _data_types().get(name, ()))]:
        raise InputError(f"the record of the run has the data argument {wrong[0]}={values[wrong[0]]!r}; name the data")
    if values.get("data_dir") and not Path(values["data_dir"]).is_absolute():
        del values["data_dir"]  # its path was removed when the record was published
    is_on_hub = "task" in values or inputs.get("dataset") == values.get("dataset")
    if not is_on_hub and not Path(str(values.get("dataset"))).is_absolute():
        return None
    return DataArguments(**values)


def _data_types() -> dict[str, type]:
    """Return the type of each field of `DataArguments`; `None` is never recorded."""
    return {field.name: str if field.default is None else type(field.default) for field in fields(DataArguments)}


def training_arguments(args: Any) -> dict[str, Any]:
    """Return the training arguments that decide the result, for the run's record.

    These are all fields except those in `NO_EFFECT`. Fields that are empty by default and in `args` are left out.

    Args:
        args: training arguments, or any object with some of their fields as attributes.
    """
    values = _decisive_values(args)
    for name in _FLOATS:
        if values.get(name) is not None:
            values[name] = float(values[name])  # a recipe may say 2 and a flag 2.0: the run is the same
    if isinstance(args, TrainingArguments) and (devices := max(args.n_gpu, 1) * args.world_size) > 1:
        values["devices"] = devices
    return {name: value if isinstance(value, dict) else str(value) for name, value in values.items()}


def _decisive_values(args: Any) -> dict[str, Any]:
    names = [field.name for field in fields(args)] if is_dataclass(args) else list(vars(args))
    defaults = {field.name: field.default for field in fields(args)} if is_dataclass(args) else {}
    unused = set() if _evaluates_to_decide(args) else set(_ON_THE_WAY)
    if not getattr(args, "fsdp", None):
        unused.add("fsdp_config")
    values = {}
    for name in names:
        if name in _IGNORED or name in unused:
            continue
        value = _plain(getattr(args, name, None))
        if value not in _EMPTY or defaults.get(name) not in (*_EMPTY, MISSING):
            values[name] = value
    return values


def _evaluates_to_decide(args: Any) -> bool:
    scheduler = getattr(args, "lr_scheduler_type", None)
    return bool(getattr(args, "load_best_model_at_end", False)) or (
        str(getattr(scheduler, "value", scheduler)) in _SCHEDULERS_WITH_EVALUATION
    )


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: the content of a configuration file, the settings that an object changes."""
    if isinstance(value, str) and value.endswith(".json") and Path(value).is_file():
        return json.loads(Path(value).read_text(encoding="utf-8"))
    if is_dataclass(value) and not isinstance(value, type):
        defaults = {field.name: field.default for field in fields(value)}
        return {name: str(entry) for name, entry in vars(value).items() if entry != defaults.get(name)}
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return value


def training_defaults(args: TrainingArguments) -> dict[str, Any]:
    """Return what `training_arguments` gives for the defaults of the same class, on the same device."""
    return training_arguments(type(args)(output_dir=args.output_dir, report_to="none", use_cpu=args.use_cpu))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], args: TrainingArguments | None = None) -> str:
    """Return the fields in which a stored run differs from a new one, with both values; empty if they are the same.

    Args:
        old, new: inputs and arguments of the two runs.
        args: the new run's training arguments. If the stored run lacks one of their fields, as a record of an earlier
            version does, that field is compared with its default of today.
    """
    old, new = dict(old), dict(json.loads(json.dumps(dict(new))))
    ignored = {_DATA} | ({_CLASSES} if _CLASSES not in old else set())
    ignored |= set(_EVALUATIONS) if _EVALUATIONS[0] not in old else set()
    if args is not None and not set(new) <= set(old):
        old = {**{name: value for name, value in training_defaults(args).items() if name in new}, **old}
    if not (_ON_THE_WAY[0] in old and _ON_THE_WAY[0] in new):
        ignored |= set(_ON_THE_WAY)  # the argument that makes them matter differs itself, or the record is an old one
    if _examples_per_step(old) == _examples_per_step(new):
        ignored |= set(_EXAMPLES_PER_STEP)
    changed = [
        name
        for name in sorted({*old, *new})
        if name not in ignored and _comparable(old.get(name)) != _comparable(new.get(name))
    ]
    return ", ".join(f"{name} was {old.get(name)!r}, now {new.get(name)!r}" for name in changed)


def _examples_per_step(values: Mapping[str, Any]) -> int | None:
    if _EXAMPLES_PER_STEP[0] not in values:
        return None
    product = 1
    for name in _EXAMPLES_PER_STEP:
        product *= int(values.get(name, 1))
    return product


def _comparable(value: Any) -> Any:
    """Return a value so that equal settings are equal: `1` and `1.0`, `SchedulerType.LINEAR` and `linear`."""
    if isinstance(value, dict):
        return {name: _comparable(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_comparable(entry) for entry in value]
    if not isinstance(value, str):
        return value
    if value in ("False", "None"):
        return None  # a version of transformers without the field does not do it either
    prefix, _, name = value.partition(".")
    if prefix[:1].isupper() and name.isupper() and name.isidentifier():
        return name.casefold()
    is_number = re.fullmatch(r"[+-]?\d{1,12}(\.\d*)?(e[+-]?\d{1,3})?", value)  # no fingerprint, which has 16 digits
    return float(value) if is_number else value
