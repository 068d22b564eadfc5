"""What stays at home when a trainer pushes its output folder by itself."""

from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME


# The arguments are a pickle, and hold the token; state, record and logs name places on the machine. `tkd-hf push`
# publishes the record, without those. A checkpoint that the strategy pushes keeps its state, to be resumed from.
_AT_HOME = (TRAINING_ARGS_NAME, f"/{TRAINER_STATE_NAME}", "/tkd_run.json", "/runs/", "/disagreements*.jsonl")


class PrivateFilesCallback(TrainerCallback):
    """Keeps such files out of `Trainer.push_to_hub` and `hub_strategy`, by a `.gitignore`, which the Hub heeds."""

    def on_push_begin(self, args, state, control, **kwargs):
        """Called before each push."""
        Path(args.output_dir, ".gitignore").write_text("\n".join(_AT_HOME) + "\n", encoding="utf-8")
