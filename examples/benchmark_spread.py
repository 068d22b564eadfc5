r"""How far repeated benchmarks lie apart: milliseconds drift with the machine, ratios hardly do.

for run in 1 2 3; do
    tkd-hf benchmark TEACHER STUDENT --task sst2 --batch-sizes 1,8 --lengths 32 --rounds 150 --patience 60 \
        --threads 1 --json run-$run.json
done
python examples/benchmark_spread.py run-1.json run-2.json run-3.json   # writes examples/results/benchmark.{md,json}
"""

import json
import sys
from pathlib import Path
from statistics import median


RESULTS = Path(__file__).parent / "results"


def main(files: list[str]) -> None:
    runs = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    shapes = [
        compare(shape)
        for shape in zip(*(zip(*(m["timings"] for m in run["models"]), strict=True) for run in runs), strict=True)
    ]
    about = {name: runs[0][name] for name in ("texts", "tokens", "hardware", "software")}
    names = [Path(model["name"]).name for model in runs[0]["models"]]
    content = {
        "command": __doc__.strip().split("\n\n")[1],
        "models": names,
        "runs": len(runs),
        "shapes": shapes,
        **about,
    }
    (RESULTS / "benchmark.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "benchmark.md").write_text(markdown(content), encoding="utf-8")


def compare(shape: tuple[tuple[dict, dict], ...]) -> dict:
    """One batch size and length in all runs: both models' medians, and how far they and their ratios lie apart."""
    first = shape[0][0]
    medians = [[timing["p50"] for timing in run] for run in shape]
    speedups = [run[1]["speedup"] for run in shape]
    ratios = [slow / fast for slow, fast in medians]
    return {
        "batch_size": first["batch_size"],
        "length": first["length"],
        "rounds": [run[0]["rounds"] for run in shape],
        "p50": medians,
        "speedup": speedups,
        "spread_of_p50": max(map(spread, zip(*medians, strict=True))),
        "spread_of_ratio": spread(ratios),
        "spread_of_speedup": spread(speedups),
    }


def spread(values) -> float:
    """What lies between the largest and the smallest, as a share of the median."""
    return (max(values) - min(values)) / median(values)


def markdown(content: dict) -> str:
    teacher, student = content["models"]
    rows = [
        f"| {shape['batch_size']} × {shape['length'] or 'real texts'} "
        f"| {listed(run[0] for run in shape['p50'])} | {listed(run[1] for run in shape['p50'])} "
        f"| {shape['spread_of_p50']:.1%} | {listed(shape['speedup'])} | {shape['spread_of_ratio']:.1%} "
        f"| {shape['spread_of_speedup']:.1%} |"
        for shape in content["shapes"]
    ]
    hardware, software = content["hardware"], content["software"]
    return "\n".join(
        [
            f"# {content['runs']} benchmarks of the same two models",
            "",
            f"`{teacher}` and `{student}`, {hardware['threads']} thread(s) of {hardware['cores']} cores of "
            f"{hardware['cpu']}, torch {software['torch']}, transformers {software['transformers']}; "
            f"{content['texts']}, {content['tokens']:.1f} tokens on average. Milliseconds are medians (p50); a spread "
            "is the distance of the largest from the smallest, as a share of the median.",
            "",
            f"| batch × tokens | {teacher}, ms | {student}, ms | spread of ms | speed-up | spread of the ratio of p50s "
            "| spread of the speed-up |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            "The speed-up is the median of the ratios within each round; the ratio of p50s that of the medians of all.",
            "",
            "```",
            content["command"],
            "```",
            "",
        ]
    )


def listed(values) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main(sys.argv[1:])
