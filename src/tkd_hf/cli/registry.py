"""The commands by name. The work is done by the public function of the same name, loaded when it is first used."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tkd_hf

from ..cards.arguments import CardOptions
from ..commands import options as of
from ..core.errors import InputError
from ..core.options import option, option_class, options_of
from ..data.arguments import DataArguments
from ..evaluation.columns import NAME, Column
from ..evaluation.tables import (
    Table,
    benchmark_table,
    evaluation_tables,
    quantization_table,
    stage_table,
    summary_table,
)
from ..models.arguments import LoraArguments, merge_command
from .command import Command, ConsoleOptions, is_on
from .output import announce, show


@option_class
class GateOptions(ConsoleOptions):
    """Options of commands that fail if a model has become too poor."""

    max_drop: float | None = option(default=None, minimum=0, shown_default="no limit", help=of.MAX_DROP_HELP)


@option_class
class DistillConsoleOptions(ConsoleOptions):
    """Options that only `tkd-hf distill` has; in Python, `teacher` may be a list."""

    extra_teacher: tuple[str, ...] = option(
        default=(), multiple=True, help="Further teacher to average logits with; may be repeated."
    )


@option_class
class PushConsoleOptions(ConsoleOptions):
    """Options that only `tkd-hf push` has."""

    dry_run: bool = option(default=False, help="List the files and the card without using the network.")


def _data(data: DataArguments | None) -> str:
    return str(data.task or data.dataset) if data else "the data of its run"


def _data_flags(data: DataArguments | None) -> list[str]:
    """Return the words that name the data completely; none if they are those of a run, whose record names them."""
    words: list[str] = []
    for declared in options_of(DataArguments) if data else ():
        value = getattr(data, declared.python_name)
        if value == getattr(DataArguments, declared.python_name):
            continue
        if isinstance(value, tuple):
            value = list(value) if declared.multiple else [",".join(value)]
        for word in value if isinstance(value, list) else [value]:
            words += [declared.flag, str(word)]
    return words


def _next_label(options: of.LabelOptions, result: Any) -> str:
    soft_labels = ("--soft-labels", options.path) if options.path else ()
    words = (options.teacher, *soft_labels, *_data_flags(options.data))
    return _typed("distill", *words, "--layers", 3, "--output-dir", "…")


def _next_augment(options: of.AugmentOptions, record: Any) -> str:
    texts = ("--unlabelled", options.output_dir)
    return _typed("distill", "TEACHER", *_data_flags(options.data), *texts, "--layers", 3, "--output-dir", "…")


def _next_benchmark(options: of.BenchmarkOptions, result: Any) -> str:
    teacher = options.reference or options.models[0]
    return _typed("evaluate", options.models[-1], "--teacher", teacher, *_data_flags(options.data))


def _typed(*words: Any) -> str:
    """Return a command as it is typed; what one fills in stays as it is."""
    return " ".join(str(word) if word in ("…", "TEACHER") else shlex.quote(str(word)) for word in ("tkd-hf", *words))


def _stage_tables(options: Any, record: Any) -> list[Table]:
    folder = options.args.output_dir if hasattr(options, "args") else options.output_dir
    return [stage_table(str(folder), record)]


def _merge(lora: LoraArguments | None, output_dir: str) -> str | None:
    """Return the command that merges the trained adapter into a model; `None` if it is already merged."""
    return merge_command(output_dir, f"{output_dir}-merged") if lora and lora.adapter_only else None


def _first(models: Any) -> str:
    return models if isinstance(models, str) else models[0]


def _list(models: Any) -> str:
    return models if isinstance(models, str) else ", ".join(models)


def _first_line_of_pretrain(options: of.PretrainOptions, console: ConsoleOptions) -> str:
    teacher = f" with the teacher {options.args.teacher}" if options.args.teacher else ""
    return f"pre-training on {options.corpus.dataset}{teacher} into {options.args.output_dir}"


def _first_line_of_quantize(options: of.QuantizeOptions, console: ConsoleOptions) -> str:
    _, scheme = tkd_hf.load_backend(options.backend, options.weights)
    return f"quantizing {options.model} into {options.output_dir} with {options.backend}, {scheme}"


def _first_line_of_evaluate(options: of.EvaluateOptions, console: ConsoleOptions) -> str:
    teacher = f" and its teacher {options.teacher}" if options.teacher else ""
    data = f" on {_data(options.data)}" if options.data else ""
    return f"evaluating {_list(options.model)}{teacher}{data}"


def _from_run(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that completes options of data, such as `--eval-split` alone, by those of the run at `key`."""

    def complete(values: dict[str, Any]) -> dict[str, Any]:
        described = options_of(DataArguments)
        given = [entry.name for entry in described if values.get(entry.name) is not None]
        if not given or {"task", "dataset"} & set(given) or not values.get(key):
            return values
        runs = values[key]
        data = tkd_hf.recorded_data(runs if isinstance(runs, str | Path) else [str(run) for run in runs])
        recorded = {entry.name: getattr(data, entry.python_name) for entry in described if entry.name not in given}
        return values | {name: value for name, value in recorded.items() if value not in (None, ())}

    return complete


def _distill_values(values: dict[str, Any]) -> dict[str, Any]:
    """Join the teachers."""
    values = _from_run("teacher")(values)
    extra = values.get("extra_teacher") or ()
    extra = (extra,) if isinstance(extra, str) else tuple(extra)
    return values | {"teacher": [values.get("teacher"), *extra]} if extra else values


def _prune_values(values: dict[str, Any]) -> dict[str, Any]:
    """Prune at once if there is no training."""
    values = _from_run("model")(values)
    if not is_on(values.get("no_train")):
        return values
    schedule = values.get("schedule") or "one-shot"
    if schedule != "one-shot":
        raise InputError(
            f"--schedule {schedule} prunes during training, which --no-train turns off; drop one of the two"
        )
    return values | {"schedule": schedule}


def _verify_values(values: dict[str, Any]) -> dict[str, Any]:
    """Take the task that the card names if no data are named."""
    if values.get("task") or values.get("dataset") or not values.get("model"):
        return values
    return values | {"task": tkd_hf.claimed_task(values["model"])}


def _check_evaluate(options: of.EvaluateOptions, console: GateOptions) -> None:
    if console.max_drop is not None and not options.teacher:
        raise InputError(f"--max-drop {console.max_drop} is the largest allowed drop below the teacher: add --teacher")


def _check_quantize(options: of.QuantizeOptions, console: GateOptions) -> None:
    if console.max_drop is not None and options.data is None:
        tkd_hf.recorded_data(options.model)  # says what to name if the record names no data
    tkd_hf.load_backend(options.backend, options.weights)


def _gate_evaluate(options: of.EvaluateOptions, console: GateOptions, result: Any) -> None:
    if console.max_drop is not None:
        result.check_drop(console.max_drop)


def _gate_prune(options: of.PruneOptions, console: GateOptions, record: Any) -> None:
    if console.max_drop is not None:
        evaluation = tkd_hf.evaluate(options.args.output_dir, options.data, options.teacher or options.model)
        evaluation.check_drop(console.max_drop)


def _gate_quantize(options: of.QuantizeOptions, console: GateOptions, record: Any) -> None:
    if console.max_drop is not None:
        tkd_hf.check_quantization_gate(record, console.max_drop)


def _label_tables(options: of.LabelOptions, result: Any) -> list[Table]:
    columns = (Column("soft labels", align="left"), Column("examples"), Column("computed"))
    return [Table("", columns, [(str(result.path), result.examples, result.computed)])]


def _next_card(options: CardOptions, result: Any) -> str:
    folder = Path(options.folder)
    if not options.report and not (folder / "report.json").exists():
        return f"{_typed('report', folder)} && {_typed('card', folder, '--report', 'report')}"
    return _typed("push", folder, "--repo-id", options.repo_id or f"ORG/{folder.name}")


@dataclass(frozen=True)
class _PlannedPush:
    """Return the files that a push would upload, with their sizes, and the card."""

    repo_id: str
    files: dict[str, int]
    card: str


def _push(options: of.PushOptions, console: PushConsoleOptions) -> Any:
    if not console.dry_run:
        return tkd_hf.push(**vars(options))
    plan = tkd_hf.plan_push(options.folder, options.repo_id, options.include)
    return _PlannedPush(options.repo_id, plan.sizes, plan.card)


def _push_tables(options: of.PushOptions, result: Any) -> list[Table]:
    if isinstance(result, _PlannedPush):
        return [Table("", (Column("file", align="left"), Column("bytes")), list(result.files.items()))]
    changes = f"{len(result.changed)} in one commit" if result.changed else "none, so no commit"
    visibility = "private" if result.private else "public"
    columns = (NAME, *map(Column, ("visibility", "files changed", "commit", "version")))
    return [Table("", columns, [(result.url, visibility, changes, result.commit[:8], options.tag)])]


def _after_push(options: of.PushOptions, result: Any) -> None:
    if isinstance(result, _PlannedPush):
        show(f"\n{result.card}")
    elif result.left:
        announce(f"other files kept in {options.repo_id}: {', '.join(result.left)}")


def _next_push(options: of.PushOptions, result: Any) -> str | None:
    if isinstance(result, _PlannedPush):
        return None
    return _typed("verify", f"{options.repo_id}{'' if result.revision == 'main' else f'@{result.revision}'}")


def _verification_tables(options: of.VerifyOptions, result: Any) -> list[Table]:
    rows = []
    for metric in result.figures:
        verdict = "wrong" if metric in result.false else "right"
        if metric.measured is None:
            verdict = "not measured"
        rows.append((metric.metric, metric.card, metric.measured, verdict))
    card, measured = (Column(name, format=lambda value: f"{value:g}") for name in ("card", "measured"))
    return [Table(f"{result.task} {result.split} ({result.examples})", (NAME, card, measured, Column("")), rows)]


def _after_verify(options: of.VerifyOptions, result: Any) -> None:
    show(f"{result.files} files match the hashes of commit {result.commit[:8]}; loads {' and '.join(result.loads)}")


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "pretrain",
            of.PretrainOptions,
            _first_line_of_pretrain,
            _stage_tables,
            lambda o, r: _typed("finetune", o.args.output_dir, "--task", "sst2", "--output-dir", "…"),
        ),
        Command(
            "finetune",
            of.FinetuneOptions,
            lambda o, c: f"fine-tuning {o.model} on {_data(o.data)} into {o.args.output_dir}",
            _stage_tables,
            lambda o, r: (
                _merge(o.lora, o.args.output_dir)
                or _typed("distill", o.args.output_dir, "--layers", 3, "--output-dir", "…")
            ),
            complete=_from_run("model"),
        ),
        Command(
            "augment",
            of.AugmentOptions,
            lambda o, c: f"augmenting {_data(o.data)} into {o.output_dir}",
            _stage_tables,
            lambda o, r: _typed(
                "distill",
                "TEACHER",
                *_data_flags(o.data),
                "--unlabelled",
                o.output_dir,
                "--layers",
                3,
                "--output-dir",
                "…",
            ),
        ),
        Command(
            "label",
            of.LabelOptions,
            lambda o, c: f"labelling {_data(o.data)} with {o.teacher}",
            _label_tables,
            _next_label,
            complete=_from_run("teacher"),
        ),
        Command(
            "distill",
            of.DistillOptions,
            lambda o, c: f"distilling {_list(o.teacher)} on {_data(o.data)} into {o.args.output_dir}",
            _stage_tables,
            lambda o, r: (
                _merge(o.lora, o.args.output_dir)
                or _typed("evaluate", o.args.output_dir, "--teacher", _first(o.teacher))
            ),
            console=DistillConsoleOptions,
            complete=_distill_values,
        ),
        Command(
            "prune",
            of.PruneOptions,
            lambda o, c: f"pruning {o.model} on {_data(o.data)} into {o.args.output_dir}",
            _stage_tables,
            lambda o, r: _typed("evaluate", o.args.output_dir, "--teacher", o.teacher or o.model),
            console=GateOptions,
            complete=_prune_values,
            gate=_gate_prune,
        ),
        Command(
            "quantize",
            of.QuantizeOptions,
            _first_line_of_quantize,
            lambda o, r: [quantization_table(o.model, str(o.output_dir), r)],
            lambda o, r: _typed("benchmark", o.model, o.output_dir, *_data_flags(o.data)),
            console=GateOptions,
            check=_check_quantize,
            gate=_gate_quantize,
            complete=_from_run("model"),
        ),
        Command(
            "evaluate",
            of.EvaluateOptions,
            _first_line_of_evaluate,
            lambda o, r: evaluation_tables(r),
            console=GateOptions,
            check=_check_evaluate,
            gate=_gate_evaluate,
            complete=_from_run("model"),
        ),
        Command(
            "benchmark",
            of.BenchmarkOptions,
            lambda o, c: f"benchmarking {_list(o.models)} on {_data(o.data) if o.data else 'built-in sentences'}",
            lambda o, r: [benchmark_table(r)],
            lambda o, r: _typed(
                "evaluate", o.models[-1], "--teacher", o.reference or o.models[0], *_data_flags(o.data)
            ),
            complete=_from_run("models"),
        ),
        Command(
            "report",
            of.ReportOptions,
            lambda o, c: f"writing a report on {_list(o.runs)} into {o.output_dir}",
            lambda o, r: [summary_table(r)],
            complete=_from_run("models"),
        ),
        Command(
            "card",
            CardOptions,
            lambda o, c: f"writing the card of {o.folder}{f' with the report in {o.report}' if o.report else ''}",
            lambda o, r: [],
            _next_card,
            after=lambda o, r: show(str(Path(o.folder) / "README.md")),
        ),
        Command(
            "push",
            of.PushOptions,
            lambda o, c: f"{'listing the files of a push of' if c.dry_run else 'pushing'} {o.folder} to {o.repo_id}",
            _push_tables,
            _next_push,
            _after_push,
            console=PushConsoleOptions,
            call=_push,
            complete=_from_run("folder"),
        ),
        Command(
            "verify",
            of.VerifyOptions,
            lambda o, c: f"verifying {o.model} on {_data(o.data)}",
            _verification_tables,
            after=_after_verify,
            complete=_verify_values,
            gate=lambda o, c, r: r.check(),
        ),
    )
}
