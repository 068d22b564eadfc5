"""`tkd-hf evaluate`: a model's metrics and cost, beside its teacher's."""

from dataclasses import asdict, dataclass, field

import torch

from ..data.features import tokenize
from ..data.loading import DataArguments, load_split
from ..errors import InputError
from ..evaluation.cost import megabytes, milliseconds_per_sentence, parameters
from ..evaluation.metrics import agreement, answers, score
from ..hardware import describe_hardware, describe_software
from ..inference import predict_logits
from ..labels import label_names, label_order
from ..model_loading import load_classifier, load_config, load_tokenizer


TIMED_SENTENCES = 100


@dataclass
class ModelResult:
    """One row of the table.

    Args:
        name: folder or Hub id.
        metrics: the task's, on the evaluation split.
        parameters: number of weights.
        megabytes: size of the weights.
        milliseconds: median time of a sentence, one at a time.
        agreement: share of examples, or of tokens, on which it answers as the teacher does; `None` for the teacher, and
            for scores.
    """

    name: str
    metrics: dict[str, float]
    parameters: int
    megabytes: float
    milliseconds: float
    agreement: float | None = None


@dataclass
class Evaluation:
    """What was measured, on how many examples of which task, on what machine."""

    task: str
    split: str
    examples: int
    models: list[ModelResult]
    software: dict = field(default_factory=describe_software)
    hardware: dict = field(default_factory=describe_hardware)

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def evaluate(model: str, data: DataArguments, teacher: str | None = None, batch_size: int = 128) -> Evaluation:
    """Measures a model, and its teacher beside it, on the evaluation split, in float32 or as the model was saved.

    Args:
        model: folder or Hub id of a classifier of texts, or of tokens.
        data: the task, or the data set.
        teacher: folder or Hub id to compare with.
        batch_size: examples at a time for the metrics; times are of single sentences.

    Returns:
        the teacher's result first, if there is one, then the model's.

    Raises:
        InputError: for bad data, models that cannot be loaded, or labels that do not match.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = [teacher, model] if teacher else [model]
    examples, task = load_split(data, "eval", known_labels=label_names(load_config(model)))
    if "label" not in examples.column_names:
        raise InputError(f"split {task.eval_split!r} of {task.name} has no labels to evaluate against")
    loaded = [(load_classifier(name, task.problem_type).to(device), load_tokenizer(name)) for name in names]
    timed = examples.remove_columns("label").select(range(min(TIMED_SENTENCES, len(examples))))
    pairs = [tuple(" ".join(text) if isinstance(text, list) else text for text in row.values()) for row in timed]
    times = milliseconds_per_sentence(loaded, pairs, data.max_length)

    results, answered = [], []
    for name, (classifier, tokenizer), time in zip(names, loaded, times, strict=True):
        features = tokenize(examples, tokenizer, data.max_length)
        logits = predict_logits(classifier, tokenizer, features, batch_size, bf16=False, description=name)
        order = label_order(label_names(classifier.config), task.label_names, f"model {name}", "data")
        if order:
            logits = [answer[:, order] for answer in logits] if isinstance(logits, list) else logits[:, order]
        labels = features["label"][:]
        metrics = score(logits, labels, task.metrics, task.problem_type, task.label_names)
        answered.append(answers(logits, labels, task.problem_type))
        results.append(ModelResult(name, metrics, parameters(classifier), megabytes(classifier), time))
    if teacher and task.problem_type != "regression":
        results[-1].agreement = agreement(*answered)
    return Evaluation(task.name, task.eval_split, len(examples), results)
