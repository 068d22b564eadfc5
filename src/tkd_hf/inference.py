"""Running a classifier over a data set: sorted by length, answers in the data set's order."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from .data.features import iterate_rows, pad, token_slice
from .errors import InputError
from .hardware import padding_multiple


if TYPE_CHECKING:
    from .evaluation.runners import Runner


def predict_logits(
    runner: "Runner", features: Dataset, batch_size: int = 128, description: str = "predicting", tokens: int = 0
) -> np.ndarray | list[np.ndarray]:
    """The model's logits for tokenised examples.

    Args:
        runner: the model, ready to answer; its tokenizer pads the features.
        features: rows with `input_ids` and what else the model takes, not padded; other columns are left alone.
        batch_size: examples at a time; sorted by length, so little is spent on padding.
        description: of the progress bar.
        tokens: of short texts more are taken at a time, up to so many tokens or, if that is less, to those of
            `batch_size` of the longest: small matrices multiply slowly. By default all batches are alike, since answers
            that are quantized as they are computed depend on what else is in a batch.

    Returns:
        (examples, labels) `float32`, row i for example i; of a token classifier, for each example in order, the logits
        of all its tokens, (length, labels).

    Raises:
        InputError: if an answer is not a number.
    """
    known = [name for name in runner.tokenizer.model_input_names if name in features.column_names]
    features = features.select_columns(known)
    lengths = np.array([len(ids) for (ids,) in iterate_rows(features, ["input_ids"])])
    batches = list(_batches(lengths, batch_size, tokens))
    multiple = padding_multiple(runner.device, runner.tokenizer)
    answers = [None] * len(features)
    with runner.batch_context():
        for places in tqdm(batches, desc=description, unit="batch"):
            columns = features[places]  # of all rows at once: one by one they take much longer to read
            logits = runner(pad(columns, runner.tokenizer, multiple)).float().cpu().numpy()
            for i, ids, answer in zip(places, columns["input_ids"], logits, strict=True):
                answers[i] = answer if answer.ndim == 1 else answer[token_slice(len(ids), runner.tokenizer)]
    _check_finite(answers, runner.name)
    return np.stack(answers) if answers[0].ndim == 1 else answers


def _batches(lengths: np.ndarray, batch_size: int, tokens: int) -> Iterator[list[int]]:
    """Places of the examples of each batch, the longest first, so that what does not fit in memory fails at once."""
    order = np.argsort(-lengths, kind="stable")
    tokens = min(tokens, batch_size * lengths.max(initial=0))
    while len(order):
        size = max(batch_size, tokens // max(lengths[order[0]], 1))
        yield order[:size].tolist()
        order = order[size:]


def _check_finite(answers: list[np.ndarray], name: str) -> None:
    wrong = [place for place, answer in enumerate(answers) if not np.isfinite(answer).all()]
    if wrong:
        raise InputError(
            f"{name} answers {len(wrong)} of {len(answers)} examples with NaN or infinity, the first one example "
            f"{wrong[0]} (from 0): its weights are broken, or overflow in this precision"
        )
