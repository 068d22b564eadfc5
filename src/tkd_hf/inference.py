"""Running a classifier over a data set: sorted by length, in mixed precision, answers in the data set's order."""

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .data.features import DistillationCollator, token_places
from .hardware import mixed_precision
from .teacher import LiveTeacher


def predict_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    features: Dataset,
    batch_size: int = 128,
    bf16: bool | None = None,
    description: str = "predicting",
) -> np.ndarray | list[np.ndarray]:
    """The model's logits for tokenised examples, without gradients and without dropout.

    Args:
        model: a classifier on the device to run on; its weights and mode stay as they are.
        tokenizer: pads the features.
        features: rows with `input_ids` and what else the model takes, not padded; other columns are left alone.
        batch_size: examples at a time; sorted by length, so little is spent on padding.
        bf16: run in bfloat16; by default where the device computes in it natively.
        description: of the progress bar.

    Returns:
        (examples, labels) `float32`, row i for example i; of a token classifier, for each example in order, the logits
        of all its tokens, (length, labels).
    """
    columns = [name for name in tokenizer.model_input_names if name in features.column_names]
    features, device = features.select_columns(columns), model.device
    order = np.argsort([-len(ids) for ids in features["input_ids"]], kind="stable")
    run, collate = LiveTeacher(model), DistillationCollator(tokenizer)
    answers = [None] * len(features)
    for start in tqdm(range(0, len(order), batch_size), desc=description, unit="batch"):
        places = order[start : start + batch_size].tolist()
        rows = [features[i] for i in places]
        batch = {name: value.to(device) for name, value in collate(rows).items()}
        with mixed_precision(device, bf16):
            logits = run(batch).logits.float().cpu().numpy()
        for i, row, answer in zip(places, rows, logits, strict=True):
            answers[i] = answer if answer.ndim == 1 else answer[token_places(len(row["input_ids"]), tokenizer)]
    return np.stack(answers) if answers[0].ndim == 1 else answers
