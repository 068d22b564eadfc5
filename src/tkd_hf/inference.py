"""Running a classifier over a data set: sorted by length, answers in the data set's order."""

from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from .data.features import pad, rows_of, token_places
from .errors import InputError
from .hardware import padding_multiple


if TYPE_CHECKING:
    from .evaluation.runners import Runner


def predict_logits(
    runner: "Runner", features: Dataset, batch_size: int = 128, description: str = "predicting"
) -> np.ndarray | list[np.ndarray]:
    """The model's logits for tokenised examples.

    Args:
        runner: the model, ready to answer; its tokenizer pads the features.
        features: rows with `input_ids` and what else the model takes, not padded; other columns are left alone.
        batch_size: examples at a time; sorted by length, so little is spent on padding.
        description: of the progress bar.

    Returns:
        (examples, labels) `float32`, row i for example i; of a token classifier, for each example in order, the logits
        of all its tokens, (length, labels).

    Raises:
        InputError: if an answer is not a number.
    """
    known = [name for name in runner.tokenizer.model_input_names if name in features.column_names]
    features = features.select_columns(known)
    order = np.argsort([-len(ids) for (ids,) in rows_of(features, ["input_ids"])], kind="stable")
    multiple = padding_multiple(runner.device, runner.tokenizer)
    answers = [None] * len(features)
    with runner.many():
        for start in tqdm(range(0, len(order), batch_size), desc=description, unit="batch"):
            places = order[start : start + batch_size].tolist()
            columns = features[places]  # of all rows at once: one by one they take much longer to read
            logits = runner(pad(columns, runner.tokenizer, multiple)).float().cpu().numpy()
            for i, ids, answer in zip(places, columns["input_ids"], logits, strict=True):
                answers[i] = answer if answer.ndim == 1 else answer[token_places(len(ids), runner.tokenizer)]
    _check_finite(answers, runner.name)
    return np.stack(answers) if answers[0].ndim == 1 else answers


def _check_finite(answers: list[np.ndarray], name: str) -> None:
    wrong = [place for place, answer in enumerate(answers) if not np.isfinite(answer).all()]
    if wrong:
        raise InputError(
            f"{name} answers {len(wrong)} of {len(answers)} examples with NaN or infinity, the first one example "
            f"{wrong[0]} (from 0): its weights are broken, or overflow in this precision"
        )
