"""What a training run holds beside model and optimizer, and a checkpoint therefore must."""

from transformers import TrainerCallback


class CheckpointedCallback(TrainerCallback):
    """A callback with a state of its own, which a `DistillationTrainer` writes into its checkpoints and reads back."""

    def save(self, checkpoint: str) -> None:
        """Writes the state into the folder of a checkpoint."""
        raise NotImplementedError

    def load(self, checkpoint: str) -> None:
        """Reads it back when training resumes, before the optimizer's state is loaded."""
        raise NotImplementedError
