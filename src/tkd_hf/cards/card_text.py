"""The facts and sentences of a card: the model's dimensions, its limits, captions of plots."""

from typing import Any

from ..evaluation import tables
from ..evaluation.columns import readable_name
from ..evaluation.results import Benchmark, Evaluation, ModelResult
from ..records.redaction import basename
from .card import Card
from .markdown import Markdown, code_span, escape, join, table_by_quantity, table_by_result


_CAPTIONS = {
    "pareto": "Quality against latency, size on disk and memory",
    "reliability": "Accuracy against confidence",
    "training": "Losses and agreement with the teacher during training",
}


def summary(card: Card) -> Markdown:
    """Return the first sentences of a card: what kind of model it is, how large, for which task, on which data."""
    config = card.config
    sentence = (
        "A transformer encoder (TKD architecture)"
        if card.is_tkd
        else f"A model of type {code_span(config['model_type'])}"
    )
    sizes = [
        config.get("num_hidden_layers") and escape(f"{config['num_hidden_layers']} layers"),
        card.parameters and f"{card.parameters / 1e6:.1f} M parameters",
        "an adapter" if card.adapter else None,
    ]
    if any(sizes):
        sentence += " with " + " and ".join(size for size in sizes if size)
    sentence += f" for {card.pipeline_tag.replace('-', ' ')}"
    if card.task:
        sentence += f" (data: {escape(card.task)})"
    if not card.is_distilled:
        return Markdown(f"{sentence}.")
    return Markdown(
        f"{sentence}. It is a student model, trained by knowledge distillation to imitate a teacher model at a lower "
        "cost."
    )


def dimensions(card: Card) -> dict[str, Any]:
    """Return the model's dimensions and how it is stored, by name; unknown facts are left out."""
    config = card.config
    vocabulary, longest = config.get("vocab_size"), config.get("max_position_embeddings")
    facts = {
        "layers": config.get("num_hidden_layers"),
        "hidden size": config.get("hidden_size"),
        "attention heads per layer": _joined(config.get("heads_per_layer")) or config.get("num_attention_heads"),
        "feed-forward neurons per layer": _joined(config.get("intermediate_sizes")) or config.get("intermediate_size"),
        "vocabulary": vocabulary and f"{vocabulary:,} tokens",
        "longest input": longest and f"{longest} tokens",
        "parameters": card.parameters and f"{card.parameters:,}",
        "adapter": card.adapter and Markdown(f"LoRA of rank {escape(card.adapter.get('r'))} on {code_span(card.base)}"),
        "quantization": quantization_format(card.quantization),
        "exported files": join(code_span(file) for files in card.exports.values() for file in files),
    }
    return {name: value for name, value in facts.items() if value}


def quantization_format(config: dict[str, Any] | None) -> str | None:
    """Describe how the weights are stored, from the quantization entry of `config.json`.

    Example:

    ```python
    >>> from tkd_hf.cards.card_text import quantization_format
    >>> quantization_format({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    'bitsandbytes, 4 bits, nf4'

    ```
    """
    if not config:
        return None
    if "backend" in config:  # written by `tkd-hf quantize`
        return ", ".join(str(value) for value in config.values() if isinstance(value, str))
    parts = [config.get("quant_method", "quantized")]
    bits = next((bits for bits in (4, 8) if config.get(f"load_in_{bits}bit")), None)
    if bits:
        parts.append(f"{bits} bits")
    if bits == 4 and config.get("bnb_4bit_quant_type"):
        parts.append(config["bnb_4bit_quant_type"])
    return ", ".join(parts)


def final_metrics(card: Card) -> Markdown:
    """Return the metrics at the end of the run, for a card without a report that compares it with the teacher."""
    if card.record is None:
        return Markdown()
    shown = {*card.metrics, "agreement", "loss", "masked_accuracy", "perplexity", "parameters", "megabytes", "speedup"}
    names = [name for name in card.record.metrics if name in shown]
    return table_by_quantity(tables.metrics_table(card.record, names))


def metrics_table(evaluation: Evaluation) -> Markdown:
    """Return the task's metrics of teacher and student, and their difference, with confidence intervals."""
    return table_by_quantity(tables.comparison_table(evaluation))


def agreement_table(student: ModelResult) -> Markdown:
    """Return how far the student's predictions (or scores, in regression) agree with the teacher's."""
    return table_by_quantity(tables.card_agreement_table(student))


def recall_table(student: ModelResult) -> Markdown:
    """Return the recall per class of teacher and student; empty for regression."""
    table = tables.recall_table({"recall of this model": student}, teacher="recall of the teacher")
    return table_by_result(table) if table else Markdown()


def speed_table(benchmark: Benchmark) -> Markdown:
    """Return latency, throughput, size and memory of teacher and student."""
    return table_by_quantity(tables.card_speed_table(benchmark))


def benchmark_hardware(benchmark: Benchmark) -> str:
    """Name the hardware on which the speed was measured."""
    hardware, device = benchmark.hardware, benchmark.models[1].device
    processor = f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores"
    return f"{hardware['accelerator']} ({processor})" if device.startswith("cuda") else processor


def captions(pictures: list[str]) -> dict[str, str]:
    """Return the caption of each picture, by path."""
    names = {picture: basename(picture).partition(".")[0] for picture in pictures}
    return {picture: _CAPTIONS.get(name, readable_name(name)) for picture, name in names.items()}


def limits(card: Card) -> list[str]:
    """Return sentences on the model's intended use and its limits, as far as they follow from the card's data."""
    details = {name for stage in card.stages for name in stage.details}
    sentences = []
    if card.task:
        sentences.append(
            f"It is meant for {_task_description(card)} similar to those of {card.task}. Its results may not hold for "
            "other texts."
        )
    if card.labels and not card.has_several_labels:
        sentences.append(f"It always predicts one of its {len(card.labels)} labels, even if none of them fits.")
    sentences += _limits_of_predictions(card)
    if longest := card.config.get("max_position_embeddings"):
        sentences.append(_length_limit(card, longest))
    if "vocabulary" in details:
        sentences.append(
            "Its vocabulary was reduced to the tokens of the training texts. Other texts are split into more tokens, "
            "and the predictions on them may be worse."
        )
    if "sparsity" in details:
        sentences.append(
            "Its zero weights make a compressed file smaller, but do not by themselves make the model faster."
        )
    return sentences


def _limits_of_predictions(card: Card) -> list[str]:
    """Return how far the model follows its teacher, and how far its confidence can be trusted."""
    agreement = card.student.agreement if card.student else None
    calibration = card.student.calibration if card.student else None
    sentences = []
    if card.is_distilled:
        disagreement = ""
        if agreement is not None:
            disagreement = f" The two predict differently on {1 - agreement:.1%} of the examples."
        sentences.append(
            f"It was trained to imitate its teacher, including the teacher's mistakes and biases.{disagreement}"
        )
    if calibration:
        sentences.append(
            f"Its confidence differs from its accuracy by {calibration.error:.1%} on average. Calibrate it before "
            "you rely on a confidence threshold."
        )
    return sentences


def _length_limit(card: Card, longest: int) -> str:
    trained_lengths = (stage.arguments.get("max_length") for stage in card.stages)
    trained_length = next((length for length in trained_lengths if length), None)
    sentence = f"It reads at most {longest} tokens."
    if trained_length and int(trained_length) < longest:
        sentence += f" It was trained and measured on texts truncated to {trained_length} tokens."
    return sentence


def _task_description(card: Card) -> str:
    if card.pipeline_tag == "feature-extraction":
        return "fine-tuning on texts"
    if card.pipeline_tag == "text-classification":
        action = "classifying" if card.labels else "scoring"
        return f"{action} pairs of texts" if isinstance(card.text, tuple) else f"{action} texts"
    tasks = {"token-classification": "labelling words in texts", "fill-mask": "filling in words in texts"}
    return tasks[card.pipeline_tag]


def _joined(entries: list[int] | None) -> str | None:
    return ", ".join(map(str, entries)) if entries else None
