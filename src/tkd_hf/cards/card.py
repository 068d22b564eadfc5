"""Render the model card (`README.md`) from a model's files, its run record and a report."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from huggingface_hub import EvalResult

from ..data.problem_types import ProblemType
from ..data.tasks import TASKS
from ..evaluation.columns import readable_name
from ..evaluation.metrics import METRICS
from ..evaluation.results import Benchmark, Evaluation, ModelResult
from ..models.backends import CardExample
from ..quantization import BACKENDS
from ..records.redaction import basename, hub_id
from ..records.run_folder import StageRecord
from . import history
from .markdown import Markdown, join, python_string
from .metadata import model_index


# suffix of the model class -> (pipeline tag on the Hub, Auto class)
TASKS_BY_SUFFIX = {
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "ForTokenClassification": ("token-classification", "AutoModelForTokenClassification"),
    "ForMaskedLM": ("fill-mask", "AutoModelForMaskedLM"),
}
# Texts for the examples in a card. They are our own: texts of a data set may have a licence, or be private.
EXAMPLE_TEXTS = {
    "text-classification": "The room was clean, but nobody answered when I called.",
    "token-classification": "Clara moved from Lisbon to Oslo in May.",
    "fill-mask": "She opened the window to let in some fresh {mask}.",
    "feature-extraction": "The bakery on the corner opens at six.",
}
EXAMPLE_PAIR = ("The bakery opens at six.", "One can buy bread at seven.")


@dataclass
class Card:
    """Everything that a model card is rendered from.

    `tkd_hf.cards.generate.card_from_folder` collects it from a run folder.

    Args:
        name: the model's name, which becomes the title.
        repo_id: Hub id for the code examples; the name, if the model has no Hub id yet.
        config: the content of `config.json`.
        record: the redacted record of the run; `None` if the folder has none.
        results: the part of a report about the model and its teacher (`tkd_hf.cards.generate.results_for_model`).
        pictures: paths of plots, relative to the folder.
        exports: paths of exported files by name of the backend; the code examples load the first of each.
        pytorch: whether the folder contains PyTorch weights.
        parameters: number of parameters.
        adapter: the content of `adapter_config.json`, if the folder contains an adapter instead of a model.
        mask: the tokenizer's mask token.
        base_model: Hub id of the model that training started from, if the record knows only a local folder.
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

    def metadata(self) -> dict[str, Any]:
        """Return the metadata that follows from the run."""
        metadata = {
            "library_name": "peft" if self.adapter else "transformers",
            "pipeline_tag": self.pipeline_tag,
            "tags": self.tags,
            **self._lineage(),
            "datasets": [self.dataset] if self.dataset else None,
            "metrics": list(self.metrics) or None,
            "widget": self._widget(),
        }
        results = self._eval_results()
        if results:
            metadata["model-index"] = model_index(self.name, results)
        return {name: value for name, value in metadata.items() if value is not None}

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """The metrics of the teacher and this model; `None` without a report."""
        return Evaluation.from_dict(self.results["evaluation"]) if self.results else None

    @cached_property
    def benchmark(self) -> Benchmark | None:
        """The speed and size of the teacher and this model; `None` without a report."""
        return Benchmark.from_dict(self.results["benchmark"]) if self.results else None

    @property
    def student(self) -> ModelResult | None:
        """The metrics of this model, and its agreement with the teacher; `None` without a report."""
        return self.evaluation.models[1] if self.evaluation else None

    @property
    def architecture(self) -> str:
        """Name of the model class; empty if the configuration does not name one."""
        return (self.config.get("architectures") or [""])[0]

    @property
    def pipeline_tag(self) -> str:
        """The model's task, as the Hub names it."""
        return self._task_names()[0]

    @property
    def auto_class(self) -> str:
        """The Auto class of transformers that loads the model."""
        return self._task_names()[1]

    @property
    def has_several_labels(self) -> bool:
        """Whether several labels of a text can be true together."""
        # compared, not constructed: the configuration of a foreign model may name a problem of its own
        return self.config.get("problem_type") == ProblemType.MULTI_LABEL

    @property
    def is_tkd(self) -> bool:
        """Whether the model is of this package's own architecture."""
        return self.config.get("model_type") == "tkd"

    @property
    def stages(self) -> list[StageRecord]:
        """The records of all stages, the first stage first."""
        if self.record is None:
            return []
        return [*(StageRecord(**earlier) for earlier in self.record.before), self.record]

    @property
    def is_distilled(self) -> bool:
        """Whether the model was trained on a teacher's logits or features."""
        return any(
            stage.inputs.get("teacher") and (stage.arguments.get("objectives") and stage.arguments.get("train", True))
            for stage in self.stages
        )

    @property
    def task(self) -> str | None:
        """Name of the task or data set of the last stage that names one."""
        return next((stage.inputs["task"] for stage in reversed(self.stages) if "task" in stage.inputs), None)

    @property
    def dataset(self) -> str | None:
        """Hub id of the data set; `None` for local data."""
        name = next((stage.inputs["dataset"] for stage in reversed(self.stages) if "dataset" in stage.inputs), "")
        return name if "/" in name else None

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits; empty for regression."""
        if self.pipeline_tag not in ("text-classification", "token-classification"):
            return []
        names = self.config.get("id2label") or {}
        return [names[index] for index in sorted(names, key=int)] if len(names) > 1 else []

    @property
    def predicts_score(self) -> bool:
        """Whether the model predicts a number (regression) instead of classes."""
        return self.pipeline_tag == "text-classification" and len(self.config.get("id2label") or {}) == 1

    @property
    def quantization(self) -> dict[str, Any] | None:
        """The quantization settings in the configuration; `None` if the model is not quantized."""
        return self.config.get("quantization") or self.config.get("quantization_config")

    @property
    def tags(self) -> list[str]:
        """Tags that the Hub filters by."""
        details = {name for stage in self.stages for name in stage.details}
        bits = self._bits()
        conditions = {
            "tkd": self.is_tkd,
            "knowledge-distillation": self.is_distilled,
            "pruned": "removed" in details,
            "sparse": "sparsity" in details,
            "vocabulary-pruned": "vocabulary" in details,
            "lora": self.adapter is not None or any("lora" in stage.arguments for stage in self.stages),
            "int8": bits == 8,
            "int4": bits == 4,
        }
        return [tag for tag, holds in conditions.items() if holds] or ["tkd-hf"]

    @property
    def metrics(self) -> dict[str, float]:
        """The task's metrics from the report; without a report, from the end of the run."""
        if self.student:
            return self.student.metrics
        return {name: value for name, value in (self.record.metrics if self.record else {}).items() if name in METRICS}

    @property
    def text(self) -> str | tuple[str, str]:
        """A text, or a pair of texts, for the code examples."""
        glue_task = TASKS.get(self.task or "")
        if glue_task and len(glue_task.text_columns) == 2:
            return EXAMPLE_PAIR
        return EXAMPLE_TEXTS[self.pipeline_tag].format(mask=self.mask or "[MASK]")

    @property
    def argument(self) -> Markdown:
        """The argument of a pipeline in the code examples, as Python source."""
        if isinstance(self.text, tuple):
            return Markdown(json.dumps(dict(zip(("text", "text_pair"), self.text, strict=True))))
        return python_string(self.text)

    @property
    def arguments(self) -> Markdown:
        """The arguments of a tokenizer in the code examples, as Python source."""
        return join(map(python_string, self.text if isinstance(self.text, tuple) else [self.text]))

    @property
    def export_examples(self) -> list[Markdown]:
        """How to run the first export of each backend."""
        examples = []
        for name, files in self.exports.items():
            repo_id, file = python_string(self.repo_id), python_string(files[0])
            example = CardExample(repo_id, file, self.auto_class, self.arguments, self.is_tkd)
            examples.append(Markdown(BACKENDS[name].card_example(example)))
        return [example for example in examples if example]

    @property
    def parent(self) -> str | None:
        """Hub id of the model with the initial weights; `None` if a student was built from its teacher's layers."""
        if self.base_model or self.record is None:
            return self.base_model
        inputs, student = self.record.inputs, self.record.arguments.get("student")
        return hub_id(inputs.get("model"), inputs.get("model_revision")) or hub_id(
            student, inputs.get("student_revision")
        )

    @property
    def base(self) -> str | None:
        """Hub id or folder name of the model that an adapter belongs to."""
        if self.adapter is None:
            return None
        return self.parent or basename(self.adapter.get("base_model_name_or_path") or "base")

    @property
    def non_default_arguments(self) -> dict[str, str]:
        """Arguments of all stages that differ from the defaults, by name; with several stages, by stage and name."""
        several = len(self.stages) > 1
        return {
            f"{stage.stage}: {name}" if several else name: value
            for stage in self.stages
            for name, value in history.non_default_arguments(stage).items()
        }

    def _task_names(self) -> tuple[str, str]:
        """Return the pipeline tag and the Auto class."""
        for suffix, names in TASKS_BY_SUFFIX.items():
            if self.architecture.endswith(suffix):
                return names
        return "feature-extraction", "AutoModel"

    def _bits(self) -> int | None:
        quantization = self.quantization or {}
        scheme = str(quantization.get("weights", ""))  # a scheme of `tkd-hf quantize`
        if quantization.get("load_in_4bit") or scheme.startswith(("int4", "nf4")):
            return 4
        return 8 if quantization.get("load_in_8bit") or scheme.startswith("int8") else None

    def _lineage(self) -> dict[str, Any]:
        """Return `base_model` and its relation, if the parent is on the Hub.

        A student's teacher is not listed: the Hub has no relation for distillation, and it would treat a `base_model`
        without a relation as fine-tuned. The card's text names the teacher, and a tag marks the student.
        """
        if self.parent is None:
            return {}
        is_quantized = self.quantization or (self.record and self.record.stage == "quantize")
        if self.adapter:
            return {"base_model": self.parent, "base_model_relation": "adapter"}
        if is_quantized:
            return {"base_model": self.parent, "base_model_relation": "quantized"}
        built_from_teacher = self.record and self.record.stage == "distill" and not self.record.arguments.get("student")
        if built_from_teacher:
            return {"base_model": self.parent}
        return {"base_model": self.parent, "base_model_relation": "finetune"}

    def _widget(self) -> list[dict[str, str]] | None:
        return [{"text": self.text}] if isinstance(self.text, str) else None

    def _eval_results(self) -> list[EvalResult]:
        inputs = self.record.inputs if self.record else {}
        task = self.evaluation.task if self.evaluation else self.task
        if not (self.metrics and task):
            return []  # the Hub requires a data set's name, which a trainer does not know
        split = self.evaluation.split if self.evaluation else (inputs.get("splits") or {}).get("eval")
        details: dict[str, Any] = {
            "task_type": self.pipeline_tag,
            "dataset_type": self.dataset or task,
            "dataset_name": task,
            "dataset_config": inputs.get("config"),
            "dataset_split": split,
        }
        return [
            EvalResult(metric_type=name, metric_name=readable_name(name), metric_value=round(value, 6), **details)
            for name, value in self.metrics.items()
        ]
