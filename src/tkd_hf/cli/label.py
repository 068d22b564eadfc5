"""`tkd-hf label`."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .output import announce, show_table, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_data
def label(
    teacher: Annotated[str, typer.Argument(help="Teacher: folder or Hub id.")],
    data: "DataArguments",
    soft_labels: o.SoftLabels = None,
    unlabelled: o.Unlabelled = None,
    batch_size: o.BatchSize = 128,
    config: o.Config = None,
    overwrite: Annotated[bool, o.option("--overwrite", help="Compute all soft labels again.")] = False,
    json_file: o.JsonFile = None,
):
    """Run the teacher once and store its soft labels for later distillation.

    Soft labels are stored by content, so examples that already have some are not computed again.
    """
    from ..commands.label import label as run

    announce(f"labelling {data.task or data.dataset} with {teacher}")
    result = run(
        teacher, data, path=soft_labels, batch_size=batch_size, overwrite=overwrite, unlabelled=unlabelled or ()
    )
    show_table(["soft labels", "examples", "computed"], [[result.path, str(result.examples), str(result.computed)]])
    suggest(f"tkd-hf distill {teacher} {o.data_flags(data)} --layers 3 --output-dir …")
    return write_json(json_file, vars(result))
