"""What a card says in sentences: shape, limits, what a picture shows."""

from typing import TYPE_CHECKING, Any

from .redaction import basename
from .tables import readable_name


if TYPE_CHECKING:
    from .card import Card


_CAPTIONS = {
    "pareto": "Quality against milliseconds, megabytes on disk and memory",
    "reliability": "Confidence against accuracy",
    "training": "Losses and agreement over the steps of training",
}


def dimensions(card: "Card") -> dict[str, Any]:
    """The model's measures, by name."""
    config = card.config
    found = {
        "layers": config.get("num_hidden_layers"),
        "hidden size": config.get("hidden_size"),
        "heads a layer": _each(config.get("heads_per_layer")) or config.get("num_attention_heads"),
        "feed-forward neurons a layer": _each(config.get("intermediate_sizes")) or config.get("intermediate_size"),
        "vocabulary": config.get("vocab_size") and f"{config['vocab_size']:,} tokens",
        "longest input": config.get("max_position_embeddings") and f"{config['max_position_embeddings']} tokens",
        "parameters": card.parameters and f"{card.parameters:,}",
        "adapter": card.adapter and f"LoRA of rank {card.adapter.get('r')} on `{card.base}`",
        "quantization": quantization_format(card.quantization),
        "exports": ", ".join(f"`{file}`" for files in card.exports.values() for file in files),
    }
    return {name: value for name, value in found.items() if value}


def quantization_format(config: dict[str, Any] | None) -> str | None:
    """How weights are packed, as their configuration says it."""
    if not config:
        return None
    if "backend" in config:  # the note of `tkd-hf quantize`
        return ", ".join(str(value) for value in config.values() if isinstance(value, str))
    bits = next((f", {bits} bits" for bits in (4, 8) if config.get(f"load_in_{bits}bit")), "")
    kind = f", {config['bnb_4bit_quant_type']}" if bits == ", 4 bits" and config.get("bnb_4bit_quant_type") else ""
    return f"{config.get('quant_method', 'quantized')}{bits}{kind}"


def final_metrics(card: "Card") -> dict[str, str]:
    """What the run measured at its end, where no report has compared it with the teacher."""
    wanted = [*card.metrics, "agreement", "loss", "masked_accuracy", "perplexity", "parameters", "megabytes", "speedup"]
    found = {name: value for name, value in card.record.metrics.items() if name in wanted} if card.record else {}
    names = {"agreement": "answered as the teacher does", "speedup": "times as fast as before it was pruned"}
    return {names.get(name, readable_name(name)): _number(value) for name, value in found.items()}


def benchmark_hardware(benchmark: dict[str, Any]) -> str:
    """What the figures of speed depend on."""
    hardware, device = benchmark["hardware"], benchmark["models"][1]["device"]
    processor = f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores"
    return f"{hardware['accelerator']} ({processor})" if device.startswith("cuda") else processor


def captions(pictures: list[str]) -> dict[str, str]:
    """Pictures with what they show."""
    names = {picture: basename(picture).partition(".")[0] for picture in pictures}
    return {picture: _CAPTIONS.get(name, readable_name(name)) for picture, name in names.items()}


def limits(card: "Card") -> list[str]:
    """What the model is for, and where its figures end; only what follows from what is known of it."""
    config, near = card.config, card.results and card.results["evaluation"]["models"][1]["fidelity"]
    calibrated = card.results and card.results["evaluation"]["models"][1]["calibration"]
    details = {name for stage in card.stages for name in stage.details}
    cut = next((stage.arguments["max_length"] for stage in card.stages if stage.arguments.get("max_length")), None)
    longest = config.get("max_position_embeddings")
    lines = [
        card.task and f"It is for {_doing(card)} like those of {card.task}; on others its figures need not hold.",
        card.labels
        and config.get("problem_type") != "multi_label_classification"
        and f"It knows {len(card.labels)} labels, and gives one of them also where none fits.",
        card.is_distilled
        and "It was made to answer as its teacher does, the teacher's mistakes and biases among the answers"
        + (f"; on {1 - near['agreement']:.1%} of the examples it answers otherwise." if _agrees(near) else "."),
        calibrated
        and f"Its confidence is off by {calibrated['error']:.1%} on average: calibrate it before acting on thresholds.",
        longest
        and f"It reads at most {longest} tokens"
        + (f", and was trained and measured on texts cut at {cut}." if cut and int(cut) < longest else "."),
        "vocabulary" in details
        and "Its vocabulary is that of the training texts: other texts cost it more tokens, and some quality.",
        "sparsity" in details and "Its zeros make a compressed file smaller; by themselves they make nothing faster.",
    ]
    return [line for line in lines if line]


def _doing(card: "Card") -> str:
    kinds = {"token-classification": "labelling words of texts", "fill-mask": "filling in words of texts"}
    if card.pipeline_tag == "feature-extraction":
        return "fine-tuning on texts"
    if card.pipeline_tag == "text-classification":
        return ("labelling" if card.labels else "scoring") + (
            " pairs of texts" if isinstance(card.text, tuple) else " texts"
        )
    return kinds[card.pipeline_tag]


def _agrees(near: dict[str, Any] | None) -> bool:
    return bool(near) and near["agreement"] is not None


def _each(entries: list[int] | None) -> str | None:
    return entries and ", ".join(map(str, entries))


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
