"""Files that stay on this machine when a trainer pushes its output folder."""

from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME


# The training arguments are a pickle and contain the Hub token. The state of the Trainer, the run record and the logs
# contain local paths. `tkd-hf push` publishes the record after it has removed those. A checkpoint that `hub_strategy`
# pushes keeps its state, so that training can resume from it.
_PRIVATE_FILES = (TRAINING_ARGS_NAME, f"/{TRAINER_STATE_NAME}", "/tkd_run.json", "/runs/", "/disagreements*.jsonl")


class PrivateFilesCallback(TrainerCallback):
    """Keep private files out of `Trainer.push_to_hub` and `hub_strategy`, with a `.gitignore` that the Hub respects."""

    def on_push_begin(self, args, state, control, **kwargs):
        """Write the `.gitignore` before each push."""
        Path(args.output_dir, ".gitignore").write_text("\n".join(_PRIVATE_FILES) + "\n", encoding="utf-8")
