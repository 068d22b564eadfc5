"""Time and memory of training and inference. Peak memory is a process's own: each measurement of it runs in a new one.

python examples/paper/measure.py SPECIFICATION     # JSON in, JSON out; the experiments call it
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from statistics import median

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

import tkd_hf  # noqa: F401 - teaches AutoModel to load students
from tkd_hf import DistillationTrainingArguments, FineTuningArguments, student_from_teacher
from tkd_hf.data.loading import DataArguments, load_split
from tkd_hf.evaluation.cost import count_parameters
from tkd_hf.evaluation.memory import peak_megabytes
from tkd_hf.stages.distill import distill
from tkd_hf.stages.finetune import finetune
from tkd_hf.stages.student import StudentArguments


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROUNDS = 15
PATIENCE = 20.0  # seconds after which a slow case is timed no more


@dataclass(frozen=True)
class Measurement:
    """What one process measures.

    Args:
        what: `"train"`, `"memory"` of inference, or `"inference"`, the time of it.
        teacher: folder.
        task, data_dir: the examples, as in `DataArguments`.
        layers: of each model, the student's number or 0 for the teacher itself; one of them except for `"inference"`.
        precisions: names in `PRECISIONS`; likewise.
        batch_sizes: likewise.
        stage: `DistillationTrainingArguments` of a student's training.
        steps: of training.
    """

    what: str
    teacher: str
    task: str
    data_dir: str
    layers: tuple[int, ...]
    precisions: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    stage: dict
    steps: int


def precisions() -> tuple[str, ...]:
    """Those that the device computes in, be it slowly; fp16 only where there is an accelerator."""
    return ("fp32", "bf16", "fp16") if torch.cuda.is_available() else ("fp32", "bf16")


def in_own_process(measurement: Measurement) -> dict:
    """Measures in a new process."""
    command = [sys.executable, __file__, json.dumps(asdict(measurement))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(measurement: Measurement) -> dict:
    """Measures in this process."""
    return {"train": train, "memory": memory, "inference": inference}[measurement.what](measurement)


def train(m: Measurement) -> dict:
    """Seconds of a step, the first one included, and the process's peak memory."""
    before, (layers, precision, batch_size) = peak_megabytes(), (m.layers[0], m.precisions[0], m.batch_sizes[0])
    data = DataArguments(task=m.task, data_dir=m.data_dir, eval_split=f"validation[:{batch_size}]")
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "max_steps": m.steps,
            "per_device_train_batch_size": batch_size,
            "bf16": precision == "bf16",
            "fp16": precision == "fp16",
            "use_cpu": device() == "cpu",
            "save_strategy": "no",
            "report_to": "none",
        }
        if layers == 0:
            record = finetune(m.teacher, data, FineTuningArguments(f"{folder}/run", **common))
        else:
            args = DistillationTrainingArguments(f"{folder}/run", **common | m.stage)
            labels = f"{folder}/labels.safetensors"
            record = distill(m.teacher, data, args, StudentArguments(layers=layers), soft_labels=labels)
    examples = len(load_split(data, "train")[0])
    steps_per_epoch = -(-examples // batch_size)
    seconds = record.metrics["seconds_per_epoch"] / steps_per_epoch
    return {"seconds_per_step": seconds, "peak_megabytes": peak_megabytes(), "before_megabytes": before}


def memory(m: Measurement) -> dict:
    """The process's peak memory in inference, and what it held before the model was loaded."""
    before = peak_megabytes()
    model = load(m.teacher, m.layers[0]).to(device(), PRECISIONS[m.precisions[0]])
    forward(model, batch(m, m.batch_sizes[0]))
    return {
        "peak_megabytes": peak_megabytes(),
        "before_megabytes": before,
        "parameters": count_parameters(model.config).total,
        "weights_megabytes": sum(weight.nbytes for weight in model.parameters()) / 1e6,
    }


def inference(m: Measurement) -> dict:
    """Median milliseconds of a forward pass; models, precisions and batch sizes take turns."""
    models = {
        (layers, precision): load(m.teacher, layers).to(device(), PRECISIONS[precision])
        for layers in m.layers
        for precision in m.precisions
    }
    batches = {size: batch(m, size) for size in m.batch_sizes}
    times = {(*model, size): [] for size in batches for model in models}
    for turn in range(ROUNDS + 1):
        for (*model, size), measured in times.items():
            if sum(measured) < PATIENCE:
                seconds = forward(models[tuple(model)], batches[size])
                if turn > 0 or seconds > PATIENCE:  # the first is the warm-up
                    measured.append(seconds)
    cases = [
        {"layers": layers, "precision": precision, "batch_size": size, "rounds": len(measured)}
        | {"milliseconds": median(measured) * 1e3}
        for (layers, precision, size), measured in times.items()
    ]
    return {"cases": cases, "tokens": {size: tuple(texts["input_ids"].shape)[1] for size, texts in batches.items()}}


def load(teacher: str, layers: int) -> PreTrainedModel:
    """The teacher, or a student cut out of it: time and memory do not depend on what it has learned."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    return (student_from_teacher(model, num_hidden_layers=layers) if layers else model).eval()


def batch(m: Measurement, size: int) -> dict[str, torch.Tensor]:
    """The first examples of the evaluation split, tokenised and padded."""
    rows = load_split(DataArguments(task=m.task, data_dir=m.data_dir), "eval")[0].select(range(size))
    texts = [list(rows[name]) for name in ("text", "text_pair") if name in rows.column_names]
    tokenizer = AutoTokenizer.from_pretrained(m.teacher)
    encoded = tokenizer(*texts, truncation=True, max_length=128, padding=True, return_tensors="pt")
    return dict(encoded.to(device()))


def forward(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> float:
    """Seconds of one forward pass."""
    with torch.inference_mode():
        synchronize()
        start = time.perf_counter()
        model(**inputs)
        synchronize()
        return time.perf_counter() - start


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(measure(Measurement(**json.loads(sys.argv[1])))))
