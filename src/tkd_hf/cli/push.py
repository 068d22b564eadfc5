"""`tkd-hf push`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from . import options as o
from .output import announce, show_table, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


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

    if max_drop is not None and data is None:
        raise InputError(f"--max-drop {max_drop} needs data to evaluate model and teacher on: add --task")
    exports = tuple(filter(None, include.split(",")))
    announce(f"{'listing the files of a push of' if dry_run else 'pushing'} {folder} to {repo_id}")
    if dry_run:
        plan = plan_push(folder, repo_id, exports)
        show_table(["file", "bytes"], [[name, str(size)] for name, size in plan.sizes.items()])
        typer.echo(f"\n{plan.card}")
        return write_json(json_file, {"repo_id": repo_id, "files": plan.sizes, "card": plan.card})
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
    show_table(
        ["", "visibility", "files changed", "commit", "version"],
        [[pushed.url, visibility, changes, pushed.commit[:8], tag or "–"]],
    )
    if pushed.left:
        announce(f"other files kept in {repo_id}: {', '.join(pushed.left)}")
    suggest(f"tkd-hf verify {repo_id}{'' if pushed.revision == 'main' else f'@{pushed.revision}'}")
    return write_json(json_file, vars(pushed))
