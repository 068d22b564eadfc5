"""A teacher and its three layers, quantized by every backend: quality, size and speed on a CPU.

    python benchmarks/quantization.py --data-dir DATA       # after the family's recipes of SST-2 and STS-B have run
    python benchmarks/quantization.py --quick

The models of one recipe are evaluated and timed in one run, in turns, beside the teacher in PyTorch and float32. A
finished model is reused. A backend that is not installed is skipped: optimum-intel (OpenVINO) needs an older
transformers than the rest, and `pip install "tkd-hf[openvino,onnx,quanto]"` finds versions that fit all.
"""

from pathlib import Path

import yaml

from common import environment, parser_of, read_options, save_rows, say, tiny_model, tiny_task
from family import RECIPES, SIZES, teacher_of
from tkd_hf import DataArguments, InputError, benchmark, evaluate, quantize
from tkd_hf.quantization import BACKENDS, load_backend


STUDENTS = ("distill-2", "prune")  # stages of the recipe
SHAPES = ((1, 32), (32, 128))  # batch size, tokens


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "runs/quantized")
    names = ["tkd-nlp-sst2", "tkd-nlp-stsb"]
    parser.add_argument("--recipes", nargs="+", default=names, help=f"recipes that have run ({' '.join(names)})")
    parser.add_argument("--backends", nargs="+", choices=list(BACKENDS), default=list(BACKENDS), help="backends (all)")
    parser.add_argument("--rounds", type=int, default=50, help="how often each model is timed (50)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every backend (1)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where the recipes' runs are (runs)")
    options = read_options(parser, arguments)
    options.students = STUDENTS
    if options.quick:
        make_quick(options)

    for name in options.recipes:
        recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
        data = DataArguments(**recipe["data"], data_dir=options.data_dir)
        run = options.runs_dir / name
        float_models = {"teacher": str(teacher_of(recipe, run))} | {
            SIZES[stage]: str(run / stage) for stage in options.students
        }
        models = {(about, "pytorch", "float32"): folder for about, folder in float_models.items()}
        for backend in options.backends:
            models |= quantized(backend, float_models, data, options.work_dir / name)
        say(f"{name}: measuring {len(models)} models")
        save_rows(
            options.results,
            measure(models, data, options),
            key=("task", "model", "backend", "weights"),
            section="quantization",
            command="python benchmarks/quantization.py --data-dir DATA",
        )


def make_quick(options) -> None:
    """Write a random teacher and student as a recipe's run would leave them, and time them once."""
    options.recipes, options.rounds, options.runs_dir = ["tkd-nlp-sst2"], 1, options.work_dir / "runs"
    options.students = ("prune",)
    options.data_dir = tiny_task(options.work_dir / "data", "sst2")
    for stage in ("finetune", *options.students):
        tiny_model(options.runs_dir / "tkd-nlp-sst2" / stage, layers=2)


def quantized(backend: str, float_models: dict[str, str], data: DataArguments, folder: Path) -> dict[tuple, str]:
    """Quantize the models with every scheme of a backend; return the folders, or nothing if it is not installed."""
    try:
        schemes = load_backend(backend)[0].schemes
    except (InputError, ImportError) as error:
        say(f"skipping {backend}: {error}")
        return {}
    models = {}
    for about, model in float_models.items():
        for weights in schemes:
            say(f"quantizing {model}: {backend}, {weights}")
            output_dir = str(folder / f"{Path(model).name}-{backend}-{weights}")
            quantize(model, output_dir, backend, weights, data, resume=True)
            models[about, backend, weights] = output_dir
    return models


def measure(models: dict[tuple, str], data: DataArguments, options) -> list[dict]:
    """Return a row per model; speeds are relative to the first one, the teacher in PyTorch and float32."""
    shapes = ((1, 8),) if options.quick else SHAPES
    teacher, *folders = models.values()
    evaluation = evaluate(folders, data, teacher)
    timed = benchmark(
        [teacher, *folders],
        data,
        batch_sizes=sorted({batch_size for batch_size, _ in shapes}),
        lengths=sorted({tokens for _, tokens in shapes}),
        threads=options.threads,
        rounds=options.rounds,
    )
    metric = next(iter(evaluation.models[0].metrics))
    rows = []
    for (about, backend, weights), result, cost in zip(models, evaluation.models, timed.models, strict=True):
        timings = [(shape, cost.timing(*shape)) for shape in shapes]
        rows.append(
            {
                "task": evaluation.task,
                "model": about,
                "backend": backend,
                "weights": weights,
                "metric": metric,
                "value": result.metrics[metric],
                "agreement": result.agreement_or_correlation,
                "megabytes": result.megabytes,
                "timings": [
                    {"batch_size": batch_size, "tokens": tokens, "milliseconds": timing.p50}
                    | {"speedup": timing.speedup, "interval": timing.interval, "rounds": timing.rounds}
                    for (batch_size, tokens), timing in timings
                ],
                **environment(*(BACKENDS[backend].packages if backend in BACKENDS else ())),
            }
        )
    return rows


if __name__ == "__main__":
    main()
