"""Run a classifier over a data set in batches sorted by length, and return logits in the data set's order."""

from collections.abc import Iterator

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..core.errors import InputError
from ..core.hardware import padding_multiple
from ..data.collation import pad, token_slice
from ..data.tokenization import iterate_rows
from .runners import Runner


def predict_logits(
    runner: "Runner", features: Dataset, batch_size: int = 128, description: str = "predicting", token_budget: int = 0
) -> np.ndarray | list[np.ndarray]:
    """Return a model's logits for tokenized examples.

    Args:
        runner: the model; its tokenizer pads the features.
        features: unpadded rows with `input_ids` and the model's other inputs. Other columns are ignored.
        batch_size: number of examples per batch. Batches are sorted by length, so little padding is needed.
        description: label of the progress bar.
        token_budget: let batches of short texts hold more examples, up to this many tokens per batch, but not more than
            `batch_size` examples of the greatest length have. Larger batches make better use of the processor. 0, the
            default, keeps all batches at `batch_size`, because the logits of models with dynamically quantized
            activations depend on the other examples in the batch.

    Returns:
        Logits of `(examples, labels)` in float32, in the order of `features`; for a token classifier, a list with an
        array of `(tokens, labels)` per example.

    Raises:
        InputError: if some logits are NaN or infinite.
    """
    model_inputs = [name for name in runner.tokenizer.model_input_names if name in features.column_names]
    features = features.select_columns(model_inputs)
    lengths = np.array([len(input_ids) for (input_ids,) in iterate_rows(features, ["input_ids"])])
    batches = list(_batches(lengths, batch_size, token_budget))
    multiple = padding_multiple(runner.device, runner.tokenizer)
    logits_of: dict[int, np.ndarray] = {}
    with runner.batch_context():
        for indices in tqdm(batches, desc=description, unit="batch"):
            columns = features[indices]  # reading all rows at once is much faster than one by one
            batch_logits = runner(pad(columns, runner.tokenizer, multiple)).float().cpu().numpy()
            for index, input_ids, example_logits in zip(indices, columns["input_ids"], batch_logits, strict=True):
                if example_logits.ndim > 1:  # one row per token
                    example_logits = example_logits[token_slice(len(input_ids), runner.tokenizer)]
                logits_of[index] = example_logits
    logits = [logits_of[index] for index in range(len(features))]
    _check_finite(logits, runner.name)
    return np.stack(logits) if logits[0].ndim == 1 else logits


def _batches(lengths: np.ndarray, batch_size: int, token_budget: int) -> Iterator[list[int]]:
    """Yield the indices of the examples per batch, longest texts first, so that too large a batch fails at once."""
    order = np.argsort(-lengths, kind="stable")
    token_budget = min(token_budget, batch_size * lengths.max(initial=0))
    while len(order):
        size = max(batch_size, token_budget // max(lengths[order[0]], 1))
        yield order[:size].tolist()
        order = order[size:]


def _check_finite(logits: list[np.ndarray], name: str) -> None:
    indices = [index for index, example_logits in enumerate(logits) if not np.isfinite(example_logits).all()]
    if indices:
        raise InputError(
            f"{name} predicts NaN or infinity for {len(indices)} of {len(logits)} examples, the first at index "
            f"{indices[0]}: its weights are broken, or overflow in this precision"
        )
