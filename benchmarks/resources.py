"""Time and memory of training and inference, over models, batch sizes and precisions.

    python benchmarks/resources.py --teacher TEACHER --data-dir DATA
    python benchmarks/resources.py --quick

TEACHER is a classifier of MRPC. Training is fine-tuning for the teacher, and the first stage of our recipe with a live
teacher for the students. The peak memory is that of a process of its own, with everything that it loads. Models,
precisions and batch sizes take turns when latencies are measured. Run it on a machine that does nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from statistics import median

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from clock import now
from common import environment, parser_of, read_options, save_rows, say, tiny_model, tiny_task
from paper import FIRST_STAGE
from tkd_hf import (
    DataArguments,
    DistillationTrainingArguments,
    FineTuningArguments,
    StudentArguments,
    distill,
    finetune,
    student_from_teacher,
)
from tkd_hf.data.loading import load_split
from tkd_hf.inference.memory import peak_megabytes


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TRAINING_EXAMPLES, STEPS = 320, 10
ROUNDS, PATIENCE = 15, 20.0  # latencies; seconds after which a slow case is not repeated
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHILD = "--run"  # first argument of the processes whose memory is measured


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "runs/resources")
    parser.add_argument("--teacher", help="folder of a classifier of MRPC")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 2], help="layers of the students (3 2)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="batch sizes (1 8 32)")
    parser.add_argument("--rounds", type=int, default=3, help="processes that measure each training (3)")
    options = read_options(parser, arguments)
    options.steps = STEPS
    if options.quick:
        options.layers, options.batch_sizes, options.rounds, options.steps = [1], [1, 4], 1, 2
        options.teacher = tiny_model(options.work_dir / "teacher", 2, ("not_equivalent", "equivalent"))
        options.data_dir = tiny_task(options.work_dir / "data", "mrpc")
    elif not options.teacher:
        parser.error("name the folder of a teacher with --teacher, or try --quick")

    # bfloat16 is measured also where the processor emulates it; float16 needs an accelerator
    precisions = ("fp32", "bf16", "fp16") if DEVICE == "cuda" else ("fp32", "bf16")
    models, largest = [0, *options.layers], options.batch_sizes[-1]
    training = list(product(models, ("fp32",), options.batch_sizes[1:]))
    training += [(options.layers[0], precision, largest) for precision in precisions if precision != "fp32"]
    rows = []
    for case in training:
        rounds = [in_own_process("training", case, options) for _ in range(options.rounds)]
        values = {name: median(measured[name] for measured in rounds) for name in rounds[0]}
        rows.append(row_of("training", case, values | {"rounds": options.rounds}))
    for case in product(models, precisions, [largest]):
        rows.append(row_of("inference memory", case, in_own_process("inference memory", case, options)))
    rows += latencies(models, precisions, options)
    key = ("measurement", "model", "precision", "batch_size")
    save_rows(options.results, rows, key=key, section="resources")


def row_of(measurement: str, case: tuple[int, str, int], values: dict) -> dict:
    """Return the row of a model, precision and batch size."""
    layers, precision, batch_size = case
    about = {"measurement": measurement, "model": f"{layers} layers" if layers else "teacher", "task": "mrpc"}
    about |= {"command": "python benchmarks/resources.py --teacher TEACHER --data-dir DATA"}
    return about | {"precision": precision, "batch_size": batch_size} | values | environment()


def in_own_process(measurement: str, case: tuple[int, str, int], options) -> dict:
    """Measure in a new process."""
    say(f"{measurement}: {case}")
    run = {"measurement": measurement, "case": case, "steps": options.steps}
    run |= {"teacher": str(options.teacher), "data_dir": options.data_dir}
    search_path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, __file__, CHILD, json.dumps(run)]
    environ = os.environ | {"PYTHONPATH": search_path}
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ)
    return json.loads(process.stdout.splitlines()[-1])


def measure(measurement: str, case: tuple[int, str, int], teacher: str, data_dir: str, steps: int) -> dict:
    """Measure in this process."""
    if measurement == "training":
        return train(*case, teacher, data_dir, steps)
    return infer(*case, teacher, data_dir)


def train(layers: int, precision: str, batch_size: int, teacher: str, data_dir: str, steps: int) -> dict:
    """Return the seconds of a step, including the first, and the peak memory of the process."""
    splits = {"train_split": f"train[:{TRAINING_EXAMPLES}]", "eval_split": f"validation[:{batch_size}]"}
    data = DataArguments("mrpc", data_dir=data_dir, **splits)
    common = {"max_steps": steps, "per_device_train_batch_size": batch_size, "use_cpu": DEVICE == "cpu"}
    common |= {"bf16": precision == "bf16", "fp16": precision == "fp16", "save_strategy": "no", "report_to": "none"}
    with tempfile.TemporaryDirectory() as folder:
        if layers == 0:
            record = finetune(teacher, data, FineTuningArguments(f"{folder}/run", **common))
        else:
            args = DistillationTrainingArguments(f"{folder}/run", **common | FIRST_STAGE)
            record = distill(teacher, data, args, StudentArguments(layers=layers))
    steps_per_epoch = -(-len(load_split(data, "train")[0]) // batch_size)
    seconds = record.metrics["seconds_per_epoch"] / steps_per_epoch
    return {"seconds_per_step": seconds, "peak_megabytes": peak_megabytes()}


def infer(layers: int, precision: str, batch_size: int, teacher: str, data_dir: str) -> dict:
    """Return the peak memory of the process in inference, and the size of the weights."""
    model = load(teacher, layers, precision)
    seconds_of_forward(model, batch(teacher, data_dir, batch_size))
    weights = list(model.parameters())
    return {
        "peak_megabytes": peak_megabytes(),
        "parameters": sum(weight.numel() for weight in weights),
        "weights_megabytes": sum(weight.nbytes for weight in weights) / 1e6,
    }


def latencies(models: list[int], precisions: tuple[str, ...], options) -> list[dict]:
    """Return a row per model, precision and batch size with the median time of a forward pass."""
    loaded = {pair: load(options.teacher, *pair) for pair in product(models, precisions)}
    batches = {size: batch(options.teacher, options.data_dir, size) for size in options.batch_sizes}
    times = {(*pair, size): [] for size in batches for pair in loaded}
    for round_number in range(ROUNDS + 1):
        for (layers, precision, size), measured in times.items():
            if sum(measured) < PATIENCE:
                seconds = seconds_of_forward(loaded[layers, precision], batches[size])
                if round_number > 0 or seconds > PATIENCE:  # the first round is the warm-up
                    measured.append(seconds)
    return [
        row_of("latency", case, {"milliseconds": median(measured) * 1e3, "rounds": len(measured)})
        for case, measured in times.items()
    ]


def load(teacher: str, layers: int, precision: str) -> PreTrainedModel:
    """Return the teacher (0 layers) or a student cut out of it, whose cost does not depend on its training."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    model = student_from_teacher(model, num_hidden_layers=layers) if layers else model
    return model.eval().to(DEVICE, PRECISIONS[precision])


def batch(teacher: str, data_dir: str, size: int) -> dict[str, torch.Tensor]:
    """Return the first examples of the evaluation split, tokenized and padded."""
    rows = load_split(DataArguments("mrpc", data_dir=data_dir), "eval")[0].select(range(size))
    texts = [list(rows[name]) for name in ("text", "text_pair") if name in rows.column_names]
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    return dict(tokenizer(*texts, truncation=True, max_length=128, padding=True, return_tensors="pt").to(DEVICE))


def seconds_of_forward(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> float:
    """Return the seconds of one forward pass."""
    with torch.inference_mode():
        start = now()
        model(**inputs)
        return now() - start


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[2])))) if sys.argv[1:2] == [CHILD] else main()
