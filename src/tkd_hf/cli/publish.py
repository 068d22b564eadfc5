"""The commands around the Hub: `card`, `push` and `verify`."""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..evaluation.columns import NAME, Column
from ..evaluation.tables import Table
from . import options as o
from .output import announce, show, store_and_show, suggest


if TYPE_CHECKING:
    from ..data.arguments import DataArguments


def card(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    report: Annotated[
        Path | None, o.option(help="Report on the model, for results, speed and pictures: folder (none).")
    ] = None,
    repo_id: Annotated[
        str | None, o.option(help="Future Hub id, org/name, for the examples of how to load it (the folder's name).")
    ] = None,
    license: Annotated[str | None, o.option(help="Licence of the model, such as apache-2.0 (none).")] = None,
    language: Annotated[
        str | None, o.option(help="Language of the texts, such as en, or several, such as en,de (none).")
    ] = None,
    base_model: Annotated[
        str | None, o.option(help="Hub id of the model it was made from (the one in the run's record).")
    ] = None,
):
    """Write a model's card (README.md) from the record of its run and, if given, from a report.

    The card can be written again at any time; text outside of the marks stays.
    """
    from ..cards.generate import card as run

    announce(f"writing the card of {model}{f' with the report in {report}' if report else ''}")
    languages = None if language is None else re.findall(r"[\w-]+", language)
    if languages and len(languages) == 1:
        languages = languages[0]
    run(model, report, repo_id, license, languages, base_model)
    show(str(model / "README.md"))
    if not report and not (model / "report.json").exists():
        suggest(f"tkd-hf report {model} && tkd-hf card {model} --report report")
    else:
        suggest(f"tkd-hf push {model} --repo-id {repo_id or f'ORG/{model.name}'}")


@o.with_optional_data
def push(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    data: "DataArguments | None",
    repo_id: Annotated[str, o.option("--repo-id", help="Repository on the Hub: org/name.")],
    public: Annotated[bool, o.option("--public", help="Make a new repository public.")] = False,
    tag: Annotated[str | None, o.option("--tag", help="Tag of this version, such as v1 (none).")] = None,
    revision: Annotated[str, o.option("--revision", help="Branch; it is created if needed (main).")] = "main",
    create_pr: Annotated[bool, o.option("--create-pr", help="Open a pull request instead of committing.")] = False,
    include: Annotated[str, o.option("--include", help="Exports to push as well, such as onnx,openvino (none).")] = "",
    dry_run: Annotated[
        bool, o.option("--dry-run", help="List the files and the card without using the network.")
    ] = False,
    message: Annotated[str, o.option("--message", help="Commit message (Upload with tkd-hf).")] = "Upload with tkd-hf",
    teacher: Annotated[
        str | None, o.option(help="Teacher for --max-drop: folder or Hub id (the one that the run names).")
    ] = None,
    max_drop: o.MaxDrop = None,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Push a run folder to the Hub as one commit: model, tokenizer, source files, card, pictures and record.

    A new repository is private unless --public is given. With --max-drop, model and teacher are evaluated first, and
    nothing is pushed if the main metric is further below the teacher's.
    """
    from ..commands.push import plan_push
    from ..commands.push import push as run

    exports = tuple(filter(None, include.split(",")))
    announce(f"{'listing the files of a push of' if dry_run else 'pushing'} {folder} to {repo_id}")
    if dry_run:
        plan = plan_push(folder, repo_id, exports)
        files = Table("", (Column("file", align="left"), Column("bytes")), list(plan.sizes.items()))
        content = store_and_show(json_file, {"repo_id": repo_id, "files": plan.sizes, "card": plan.card}, files)
        show(f"\n{plan.card}")
        return content
    pushed = run(
        folder,
        repo_id,
        exports,
        max_drop,
        data,
        teacher,
        private=not public,
        revision=revision,
        tag=tag,
        create_pr=create_pr,
        message=message,
    )
    changes = f"{len(pushed.changed)} in one commit" if pushed.changed else "none, so no commit"
    visibility = "private" if pushed.private else "public"
    columns = (NAME, *map(Column, ("visibility", "files changed", "commit", "version")))
    row = (pushed.url, visibility, changes, pushed.commit[:8], tag)
    content = store_and_show(json_file, vars(pushed), Table("", columns, [row]))
    if pushed.left:
        announce(f"other files kept in {repo_id}: {', '.join(pushed.left)}")
    suggest(f"tkd-hf verify {repo_id}{'' if pushed.revision == 'main' else f'@{pushed.revision}'}")
    return content


def _task_of(values: dict[str, Any]) -> str:
    from ..commands.verify import claimed_task

    return claimed_task(values["model"])


@partial(o.with_data, default_task=_task_of)
def verify(
    model: Annotated[str, typer.Argument(help="Model on the Hub: org/name or org/name@v1.")],
    data: "DataArguments",
    tolerance: Annotated[
        float, o.option(min=0, help="Largest difference from the card's metrics that passes (0.002).")
    ] = 0.002,
    batch_size: o.BatchSize = 128,
    trust_remote_code: Annotated[
        bool, o.option("--trust-remote-code", help="Run the repository's own code if it is not this package's.")
    ] = False,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Check a model on the Hub: the hashes of its files, whether it loads, and the metrics on its card.

    The model is downloaded into a fresh cache and evaluated again. The task is that of the card unless --task or
    --dataset is given. The exit code is 1 if the card is wrong.
    """
    from ..commands.verify import verify as run

    announce(f"verifying {model} on {data.task or data.dataset}")
    result = run(model, data, tolerance, batch_size, trust_remote_code)
    rows = []
    for metric in result.figures:
        verdict = "wrong" if metric in result.false else "right"
        if metric.measured is None:
            verdict = "not measured"
        rows.append((metric.metric, metric.card, metric.measured, verdict))
    card_value, measured_value = (Column(name, format=lambda value: f"{value:g}") for name in ("card", "measured"))
    table = Table(
        f"{result.task} {result.split} ({result.examples})", (NAME, card_value, measured_value, Column("")), rows
    )
    content = store_and_show(json_file, result.to_dict(), table)
    show(f"{result.files} files match the hashes of commit {result.commit[:8]}; loads {' and '.join(result.loads)}")
    result.check()
    return content
