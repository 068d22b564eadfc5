"""`tkd-hf push`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import options as o
from .output import announce, show_table, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_optional_data
def push(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    data: "DataArguments | None",
    repo_id: Annotated[str, typer.Option("--repo-id", help="Where to: org/name.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository is to be seen by everyone.")] = False,
    tag: Annotated[str | None, typer.Option("--tag", help="Name of this version: v1.")] = None,
    revision: Annotated[str, typer.Option("--revision", help="Branch; it is made if need be.")] = "main",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    include: Annotated[str, typer.Option("--include", help="Exports to push along: onnx,openvino.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files and card, and touch no network.")] = False,
    message: Annotated[str, typer.Option("--message", help="Of the commit.")] = "Upload with tkd-hf",
    teacher: Annotated[str | None, typer.Option(help="Teacher of the gate. Default: the one the run names.")] = None,
    max_drop: o.MaxDrop = None,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Push a run folder to the Hub as one commit: model, tokenizer, source, card, pictures and record.

    The repository is private unless it exists or --public is given. The gate (--max-drop) measures the model beside
    its teacher first, and pushes nothing that misses it.
    """
    from ..stages.push import plan_push
    from ..stages.push import push as run

    if max_drop is not None and data is None:
        raise InputError(f"--max-drop {max_drop} needs data to measure model and teacher on: add --task")
    exports = tuple(filter(None, include.split(",")))
    announce(f"{'listing what a push would send' if dry_run else f'pushing {folder}'} to {repo_id}")
    if dry_run:
        found = plan_push(folder, repo_id, exports)
        show_table(["file", "bytes"], [[name, str(size)] for name, size in found.sizes.items()])
        typer.echo(f"\n{found.card}")
        return write_json(json_file, {"repo_id": repo_id, "files": found.sizes, "card": found.card})
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
    seen = "private" if pushed.private else "public"
    show_table(
        ["", "seen", "files changed", "commit", "version"], [[pushed.url, seen, changes, pushed.commit[:8], tag or "–"]]
    )
    if pushed.left:
        announce(f"left as they were in {repo_id}: {', '.join(pushed.left)}")
    suggest(f"tkd-hf verify {repo_id}{'' if pushed.revision == 'main' else f'@{pushed.revision}'}")
    return write_json(json_file, vars(pushed))
