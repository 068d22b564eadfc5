"""The card of a model: what its folder, its record and a report say of it, and nothing else."""

import json
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..data.tasks import GLUE_TASKS
from ..evaluation.metrics import METRICS
from ..stages.run_folder import StageRecord
from . import card_text, history, tables
from .metadata import front_matter, merge_metadata, model_index, strip_peft_template
from .redaction import basename, hub_id
from .sections import merge_sections, user_text


# the end of a class's name -> the task on the Hub, the Auto class
KINDS = {
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "ForTokenClassification": ("token-classification", "AutoModelForTokenClassification"),
    "ForMaskedLM": ("fill-mask", "AutoModelForMaskedLM"),
}
# examples of our own: those of a data set may be somebody's
TEXTS = {
    "text-classification": "The room was clean, but nobody answered when I called.",
    "token-classification": "Clara moved from Lisbon to Oslo in May.",
    "fill-mask": "She opened the window to let in some fresh {mask}.",
    "feature-extraction": "The bakery on the corner opens at six.",
}
PAIR = ("The bakery opens at six.", "One can buy bread at seven.")


@dataclass
class Card:
    """What is known of a model, for its card.

    Args:
        name: what to call it.
        repo_id: what to load it by; its name where it has no place on the Hub yet.
        config: the model's, as in `config.json`.
        record: of the run that made it, without places on the machine; `None` where there is none.
        results: the part of a report that is about the model and its teacher (`tkd_hf.stages.card.results_for_model`).
        pictures: paths within the folder.
        exports: of `"onnx"` and `"openvino"` the files; it says how to load the first.
        pytorch: whether there are weights for PyTorch.
        parameters: number of weights.
        adapter: the configuration of an adapter (`adapter_config.json`), where the folder holds one and no model.
        mask: the tokenizer's mask.
        base_model: Hub id of the model that it was made from, where the record only knows a folder.
    """

    name: str
    repo_id: str
    config: dict[str, Any]
    record: StageRecord | None = None
    results: dict[str, Any] | None = None
    pictures: list[str] = field(default_factory=list)
    exports: dict[str, list[str]] = field(default_factory=dict)
    pytorch: bool = True
    parameters: int | None = None
    adapter: dict[str, Any] | None = None
    mask: str | None = None
    base_model: str | None = None

    def render(self, existing: str = "", **chosen: Any) -> str:
        """The card, in which what people wrote into an existing one stays.

        Args:
            existing: the card that is there.
            chosen: metadata to be set, such as `license`; `None` leaves it as it is.
        """
        existing_metadata, page = strip_peft_template(existing)
        sections = self.sections()
        if user_text(page).startswith("# "):
            sections["title"] = ""  # they gave it one
        metadata = merge_metadata(self.metadata(), existing_metadata, **chosen)
        return front_matter(metadata) + "\n" + merge_sections(page, sections)

    def sections(self) -> dict[str, str]:
        """Each part of the card by name; those about which nothing is known are empty."""
        environment = Environment(
            loader=PackageLoader("tkd_hf.hub", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        template = environment.get_template("card.md.jinja")
        context = template.new_context({"card": self, "card_text": card_text, "history": history, "tables": tables})
        return {name: "".join(block(context)).strip() for name, block in template.blocks.items()}

    def metadata(self) -> dict[str, Any]:
        """What the Hub reads, as far as the run says it."""
        found = {
            "library_name": "peft" if self.adapter else "transformers",
            "pipeline_tag": self.pipeline_tag,
            "tags": self.tags,
            **self._lineage(),
            "datasets": [self.dataset] if self.dataset else None,
            "metrics": list(self.metrics) or None,
            "widget": self._widget(),
        }
        evaluated = self._eval_results()
        if evaluated:
            found["model-index"] = model_index(self.name, evaluated)
        return {name: value for name, value in found.items() if value is not None}

    @property
    def architecture(self) -> str:
        return (self.config.get("architectures") or [""])[0]

    @property
    def pipeline_tag(self) -> str:
        return next((task for end, (task, _) in KINDS.items() if self.architecture.endswith(end)), "feature-extraction")

    @property
    def auto_class(self) -> str:
        return next((auto for end, (_, auto) in KINDS.items() if self.architecture.endswith(end)), "AutoModel")

    @property
    def is_tkd(self) -> bool:
        return self.config.get("model_type") == "tkd"

    @property
    def stages(self) -> list[StageRecord]:
        """What was done, the first thing first."""
        return [*(StageRecord(**one) for one in self.record.before), self.record] if self.record else []

    @property
    def stage_names(self) -> set[str]:
        return {stage.stage for stage in self.stages}

    @property
    def is_distilled(self) -> bool:
        """Whether a teacher's answers, or features, were learned from."""
        return any(
            stage.inputs.get("teacher") and (stage.arguments.get("objectives") and stage.arguments.get("train", True))
            for stage in self.stages
        )

    @property
    def task(self) -> str | None:
        """The name of the data."""
        return next((stage.inputs["task"] for stage in reversed(self.stages) if "task" in stage.inputs), None)

    @property
    def dataset(self) -> str | None:
        """Hub id of the data."""
        found = next((stage.inputs["dataset"] for stage in reversed(self.stages) if "dataset" in stage.inputs), "")
        return found if "/" in found else None

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits; none for scores."""
        if self.pipeline_tag not in ("text-classification", "token-classification"):
            return []
        names = self.config.get("id2label") or {}
        return [names[code] for code in sorted(names, key=int)] if len(names) > 1 else []

    @property
    def quantization(self) -> dict[str, Any] | None:
        """How the weights are packed."""
        return self.config.get("quantization") or self.config.get("quantization_config")

    @property
    def tags(self) -> list[str]:
        details = {name for stage in self.stages for name in stage.details}
        bits = self._bits()
        wanted = {
            "tkd": self.is_tkd,
            "knowledge-distillation": self.is_distilled,
            "pruned": "removed" in details,
            "sparse": "sparsity" in details,
            "vocabulary-pruned": "vocabulary" in details,
            "lora": self.adapter is not None or any("lora" in stage.arguments for stage in self.stages),
            "int8": bits == 8,
            "int4": bits == 4,
        }
        return [tag for tag, holds in wanted.items() if holds] or ["tkd-hf"]

    @property
    def metrics(self) -> dict[str, float]:
        """The task's metrics: those of the report, otherwise those at the end of the run."""
        if self.results:
            return self.results["evaluation"]["models"][1]["metrics"]
        return {name: value for name, value in (self.record.metrics if self.record else {}).items() if name in METRICS}

    @property
    def text(self) -> str | tuple[str, str]:
        """An example to try it on."""
        known = GLUE_TASKS.get(self.task)
        if known and len(known.text_columns) == 2:
            return PAIR
        return TEXTS[self.pipeline_tag].format(mask=self.mask or "[MASK]")

    @property
    def argument(self) -> str:
        """What a pipeline is called with, as Python writes it."""
        if isinstance(self.text, tuple):
            return json.dumps(dict(zip(("text", "text_pair"), self.text, strict=True)))
        return json.dumps(self.text)

    @property
    def arguments(self) -> str:
        """What a tokenizer is called with."""
        return ", ".join(map(json.dumps, self.text if isinstance(self.text, tuple) else [self.text]))

    @property
    def parent(self) -> str | None:
        """Hub id of the model whose weights this one began with; a student cut from its teacher has none."""
        if self.base_model or self.record is None:
            return self.base_model
        inputs, student = self.record.inputs, self.record.arguments.get("student")
        return hub_id(inputs.get("model"), inputs.get("model_revision")) or hub_id(
            student, inputs.get("student_revision")
        )

    @property
    def base(self) -> str | None:
        """What an adapter is loaded on."""
        if self.adapter is None:
            return None
        return self.parent or basename(self.adapter.get("base_model_name_or_path") or "base")

    @property
    def non_default_arguments(self) -> dict[str, str]:
        """Arguments of all stages that differ from the defaults."""
        several = len(self.stages) > 1
        return {
            f"{stage.stage}: {name}" if several else name: value
            for stage in self.stages
            for name, value in history.non_default_arguments(stage).items()
        }

    def _bits(self) -> int | None:
        packed = self.quantization or {}
        said = str(packed.get("weights", ""))  # as `tkd-hf quantize` calls its schemes
        if packed.get("load_in_4bit") or said.startswith(("int4", "nf4")):
            return 4
        return 8 if packed.get("load_in_8bit") or said.startswith("int8") else None

    def _lineage(self) -> dict[str, Any]:
        """The parent and what it is to the model, for Hub ids alone.

        The Hub knows no relation of students to teachers, and would take a `base_model` without a relation for one that
        was fine-tuned: a student's teacher is named in the card's text, and the student is tagged.
        """
        if self.parent is None:
            return {}
        packed = self.quantization or (self.record and self.record.stage == "quantize")
        relation = "adapter" if self.adapter else "quantized" if packed else "finetune"
        cut = self.record and self.record.stage == "distill" and not self.record.arguments.get("student")
        known = self.adapter or packed or not cut
        return {"base_model": self.parent} | ({"base_model_relation": relation} if known else {})

    def _widget(self) -> list[dict[str, str]] | None:
        return [{"text": self.text}] if isinstance(self.text, str) else None

    def _eval_results(self) -> list[EvalResult]:
        inputs = self.record.inputs if self.record else {}
        task = self.results["evaluation"]["task"] if self.results else self.task
        if not (self.metrics and task):
            return []  # the Hub takes no figures of data without a name, as a trainer's is
        split = self.results["evaluation"]["split"] if self.results else (inputs.get("splits") or {}).get("eval")
        about = {
            "task_type": self.pipeline_tag,
            "dataset_type": self.dataset or task,
            "dataset_name": task,
            "dataset_config": inputs.get("config"),
            "dataset_split": split,
        }
        return [
            EvalResult(metric_type=name, metric_name=tables.readable_name(name), metric_value=round(value, 6), **about)
            for name, value in self.metrics.items()
        ]
