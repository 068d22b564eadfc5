r"""A teacher and its students, quantized by every backend: what is lost, and what is gained over the teacher in floats.

    tkd-hf prune runs/sst2-3l-s0 --vocabulary --task sst2 --data-dir DATA --output-dir runs/sst2-3l-s0-v
    python examples/quantization.py --teacher runs/sst2-teacher --students runs/sst2-3l-s0 runs/sst2-3l-s0-v \
        --task sst2 --data-dir DATA

Makes what is missing in runs/quantized, evaluates it all, times it in one run, in turns, beside the teacher in float32,
and writes examples/results/quantization-TASK.json, .md and .png. Resumable: a finished model is taken as it is. A
backend that is not installed is passed over, and the table says so; optimum-intel wants an older transformers than the
rest (`pip install "tkd-hf[openvino,onnx,quanto]"` finds versions that fit all).
"""

import argparse
import inspect
import json
from pathlib import Path

from tkd_hf.cli.output import announce
from tkd_hf.data.loading import DataArguments
from tkd_hf.errors import InputError
from tkd_hf.naming import short_names
from tkd_hf.quantization import BACKENDS, load_backend
from tkd_hf.report.figures import BLUE, GREY, RED, plt, save
from tkd_hf.stages.benchmark import benchmark
from tkd_hf.stages.evaluate import evaluate
from tkd_hf.stages.quantize import quantize


SHAPES = ((1, 32), (32, 128))
COLORS, MARKERS = (GREY, RED, BLUE), "o s ^ D v".split()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--students", nargs="+", required=True)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir")
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    parser.add_argument("--output-dir", default="runs/quantized")
    parser.add_argument("--results-dir", type=Path, default="examples/results")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    data = DataArguments(task=options.task, data_dir=options.data_dir)
    floats = dict(
        zip(short_names([options.teacher, *options.students]), [options.teacher, *options.students], strict=True)
    )
    models = {f"{whose}, float32": model for whose, model in floats.items()}
    passed_over = {}
    for backend in options.backends:
        try:
            schemes = load_backend(backend)[0].SCHEMES
        except (InputError, ImportError) as error:
            announce(f"passing over {backend}: {error}")
            passed_over[backend] = str(error)
            continue
        for whose, model in floats.items():
            for weights in schemes:
                announce(f"quantizing {model}: {backend}, {weights}")
                folder = f"{options.output_dir}/{whose}-{backend}-{weights}"
                quantize(model, folder, backend, weights, data, resume=True)
                models[f"{whose}, {backend} {weights}"] = folder
    announce(f"measuring {len(models)} models")
    names, folders = list(models), list(models.values())
    found = evaluate(folders[1:], data, options.teacher)
    timed = benchmark(
        folders,
        data,
        batch_sizes=sorted({size for size, _ in SHAPES}),
        lengths=sorted({length for _, length in SHAPES}),
        threads=options.threads,
        rounds=options.rounds,
    )
    rows = [row(*one) for one in zip(names, found.models, timed.models, strict=True)]
    metric = next(iter(found.models[0].metrics))
    content = {
        "command": inspect.cleandoc(__doc__.split("\n\n")[1]).replace("sst2", options.task),
        "task": f"{found.task}, {found.split}, {found.examples} examples",
        "metric": metric,
        "rows": rows,
        "passed_over": passed_over,
        "software": timed.software,
        "hardware": timed.hardware,
    }
    options.results_dir.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("json", json.dumps(content, indent=2) + "\n"), ("md", markdown(content))):
        (options.results_dir / f"quantization-{options.task}.{suffix}").write_text(text, encoding="utf-8")
    draw(options.results_dir / f"quantization-{options.task}.png", content)


def row(name: str, model, cost) -> dict:
    """One line of the table; speed is relative to the first model of the run, the teacher in float32."""
    return {
        "model": name,
        "metrics": model.metrics,
        "agreement": model.likeness,
        "megabytes": model.megabytes,
        "weights": cost.dtype,
        "timings": [
            {"batch_size": size, "length": length, "p50": timing.p50, "speedup": timing.speedup}
            | {"interval": timing.interval, "rounds": timing.rounds}
            for size, length in SHAPES
            for timing in [cost.timing(size, length)]
        ],
    }


def markdown(content: dict) -> str:
    rows, metric, hardware = content["rows"], content["metric"], content["hardware"]
    shapes = [f"{size} × {length}" for size, length in SHAPES]
    likeness = "correlation with the teacher" if metric == "pearson" else "agreement with the teacher"
    head = ["", metric, likeness, "MB", *(f"p50 ms, {shape} | speed" for shape in shapes)]
    lines = [
        " | ".join(
            [
                f"| {found['model']} | {found['metrics'][metric]:.4f}",
                "–" if found["agreement"] is None else f"{found['agreement']:.4f}",
                f"{found['megabytes']:.1f}",
                *(f"{timing['p50']:.2f} | {timing['speedup']:.2f}×" for timing in found["timings"]),
            ]
        )
        + " |"
        for found in rows
    ]
    return "\n".join(
        [
            "# Quantized",
            "",
            f"{content['task']}; {hardware['threads']} thread(s) of {hardware['cpu']}, {hardware['cores']} cores; "
            f"torch {content['software']['torch']}, transformers {content['software']['transformers']}. Speed is that "
            "of a forward pass over batch × tokens, all models in turn in one run, relative to the teacher in float32.",
            "",
            f"![the same as a figure](quantization-{content['task'].partition(',')[0]}.png)",
            "",
            f"| {' | '.join(head)} |",
            f"| --- |{' ---: |' * (3 + 2 * len(shapes))}",
            *lines,
            "",
            *(f"{backend} was passed over: {reason}" for backend, reason in content["passed_over"].items()),
            "",
            "```",
            content["command"],
            "```",
            "",
        ]
    )


def draw(path: Path, content: dict) -> None:
    """The metric against time and size: a colour for whose model it is, a marker for each backend."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True)
    rows, metric = content["rows"], content["metric"]
    places = [row["model"].partition(", ") for row in rows]
    colors = dict(zip(dict.fromkeys(whose for whose, _, _ in places), COLORS, strict=False))
    markers = dict(zip(dict.fromkeys(how.split()[0] for *_, how in places), MARKERS, strict=False))
    costs = {"ms, 1 × 32 tokens": lambda row: row["timings"][0]["p50"], "MB on disk": lambda row: row["megabytes"]}
    for axis, (label, cost) in zip(panels, costs.items(), strict=True):
        for row, (whose, _, how) in zip(rows, places, strict=True):
            axis.plot(cost(row), row["metrics"][metric], markers[how.split()[0]], color=colors[whose], alpha=0.8)
        axis.axhline(rows[0]["metrics"][metric], color=GREY, linewidth=0.8, linestyle=":")
        axis.set(xscale="log", xlabel=label, ylabel=metric if axis is panels[0] else "")
        axis.xaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(plt.ScalarFormatter())
        axis.xaxis.set_minor_formatter(plt.NullFormatter())
        axis.grid(color="#dddddd", linewidth=0.6)
    for whose, color in colors.items():
        panels[0].plot([], [], "o", color=color, label=whose)
    for how, marker in markers.items():
        panels[1].plot([], [], marker, color=GREY, label="PyTorch" if how == "float32" else how)
    for axis in panels:
        axis.legend(fontsize=8, framealpha=1)
    save(figure, path, f"{content['task'].partition(',')[0]}: what each backend costs and keeps", "dotted: the teacher")


if __name__ == "__main__":
    main()
