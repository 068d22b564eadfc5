"""A teacher of the family and its three layers, quantized by every backend: what is lost, and what is gained.

    tkd-hf run examples/recipes/tkd-nlp-sst2.yaml
    python examples/quantization.py tkd-nlp-sst2 --data-dir DATA

Makes what is missing in runs/quantized, evaluates it all, times it in one run, in turns, beside the teacher in float32,
and writes `<results-dir>/quantization-<task>.json`, .md and .png. Resumable: a finished model is taken as it is. A
backend that is not installed is passed over, and the table says so; optimum-intel wants an older transformers than the
rest (`pip install "tkd-hf[openvino,onnx,quanto]"` finds versions that fit all).
"""

import argparse
from pathlib import Path

import yaml

from family import RECIPES
from family_seeds import teacher_of
from family_table import SIZES, title
from tkd_hf.cli.output import announce, write_json
from tkd_hf.data.loading import DataArguments
from tkd_hf.errors import InputError
from tkd_hf.quantization import BACKENDS, load_backend
from tkd_hf.reporting.figures import BLUE, GREY, RED, plt, save
from tkd_hf.stages.benchmark import benchmark
from tkd_hf.stages.evaluate import evaluate
from tkd_hf.stages.quantize import quantize


SHAPES = ((1, 32), (32, 128))
ROUNDS = 50
STUDENTS = ("distill-2", "prune")  # stages of the recipe
COLORS, MARKERS = (GREY, RED, BLUE), "o s ^ D v".split()


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="its name, such as tkd-nlp-sst2")
    parser.add_argument("--recipes-dir", type=Path, default=RECIPES)
    parser.add_argument("--data-dir")
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    parser.add_argument("--output-dir", default="runs/quantized")
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)

    recipe = yaml.safe_load((options.recipes_dir / f"{options.recipe}.yaml").read_text(encoding="utf-8"))
    data = DataArguments(**recipe["data"], data_dir=options.data_dir)
    teacher = str(teacher_of(recipe))
    floats = {"teacher": teacher, **{SIZES[stage]: f"{recipe['output_dir']}/{stage}" for stage in STUDENTS}}
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
                folder = f"{options.output_dir}/{options.recipe}-{Path(model).name}-{backend}-{weights}"
                quantize(model, folder, backend, weights, data, resume=True)
                models[f"{whose}, {backend} {weights}"] = folder
    announce(f"measuring {len(models)} models")
    names, folders = list(models), list(models.values())
    found = evaluate(folders[1:], data, teacher)
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
        "command": f"python examples/quantization.py {options.recipe} --data-dir DATA"
        + (f" --rounds {options.rounds}" if options.rounds != ROUNDS else ""),
        "title": title(options.recipe),
        "task": f"{found.task}, {found.split}, {found.examples} examples",
        "metric": metric,
        "rows": rows,
        "passed_over": passed_over,
        "software": timed.software,
        "hardware": timed.hardware,
    }
    options.results_dir.mkdir(parents=True, exist_ok=True)
    stem = f"quantization-{options.recipe.removeprefix('tkd-nlp-')}"
    write_json(options.results_dir / f"{stem}.json", content)
    draw(options.results_dir / f"{stem}.png", content)
    (options.results_dir / f"{stem}.md").write_text(markdown(content, f"{stem}.png"), encoding="utf-8")


def row(name: str, model, cost) -> dict:
    """One line of the table; speed is relative to the first model of the run, the teacher in float32."""
    return {
        "model": name,
        "metrics": model.metrics,
        "agreement": model.agreement_or_correlation,
        "megabytes": model.megabytes,
        "weights": cost.dtype,
        "timings": [
            {"batch_size": size, "length": length, "p50": timing.p50, "speedup": timing.speedup}
            | {"interval": timing.interval, "rounds": timing.rounds}
            for size, length in SHAPES
            for timing in [cost.timing(size, length)]
        ],
    }


def markdown(content: dict, picture: str) -> str:
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
            f"# {content['title']}, quantized",
            "",
            f"`{content['command']}`",
            "",
            f"{content['task']}; {hardware['threads']} thread(s) of {hardware['cpu']}, {hardware['cores']} cores; "
            f"torch {content['software']['torch']}, transformers {content['software']['transformers']}. Speed is that "
            "of a forward pass over batch × tokens, all models in turn in one run, relative to the teacher in float32.",
            "",
            f"![the same as a figure]({picture})",
            "",
            f"| {' | '.join(head)} |",
            f"| --- |{' ---: |' * (3 + 2 * len(shapes))}",
            *lines,
            "",
            *(f"{backend} was passed over: {reason}\n" for backend, reason in content["passed_over"].items()),
        ]
    )


def draw(path: Path, content: dict) -> None:
    """The metric against time and size: a colour for whose model it is, a marker for each backend."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True)
    rows, metric = content["rows"], content["metric"]
    places = [row["model"].rpartition(", ") for row in rows]
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
    save(figure, path, f"{content['title']}: what each backend costs and keeps", "dotted: the teacher")


if __name__ == "__main__":
    main()
