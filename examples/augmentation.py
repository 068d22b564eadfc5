"""What texts with other words in them are worth: the family's students of two layers, with them and without.

    tkd-hf run examples/recipes/tkd-nlp-cola.yaml && python examples/augmentation.py --data-dir DATA

Of each recipe in examples/recipes/ that makes such texts, and whose teacher is there, it writes
`runs/<recipe>-more.yaml` and `runs/<recipe>-plain.yaml`, which make two layers with them and without, by the settings
of the recipe in all else, and runs both. What the two reports say side by side goes into
`<results-dir>/augmentation.{json,md}`, beside what stands there of other recipes.
"""

import argparse
from pathlib import Path

from family import RECIPES, record_of
from family_seeds import STAGES_A_DEPTH, again, run, taught
from family_table import title
from tkd_hf.cli.output import write_json
from tkd_hf.files import read_json
from tkd_hf.stages.report import REPORT_JSON


STUDENT = "distill-2"  # features, then answers


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes-dir", type=Path, default=RECIPES)
    parser.add_argument("--data-dir")
    parser.add_argument("--recipes", nargs="+", help="run only these")
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    options = parser.parse_args(arguments)

    results = options.results_dir / "augmentation.json"
    tasks = read_json(results, hint="delete it")["tasks"] if results.exists() else {}
    for name, recipe in taught(options.recipes_dir, options.recipes).items():
        if any("augment" in stage for stage in recipe["stages"]):
            both = [two_layers_of(recipe, more) for more in (True, False)]
            for one in both:
                run(one, options.data_dir)
            tasks[name] = beside(*(Path(one["output_dir"], "report", REPORT_JSON) for one in both))
    content = {"command": "python examples/augmentation.py --data-dir DATA", "tasks": dict(sorted(tasks.items()))}
    write_json(results, content)
    results.with_suffix(".md").write_text(markdown(content), encoding="utf-8")


def two_layers_of(recipe: dict, more: bool) -> dict:
    """What of the recipe makes its two layers, with the texts that it makes up or without."""
    distilled = [stage["distill"] for stage in recipe["stages"] if "distill" in stage][-STAGES_A_DEPTH:]
    distilled = [{name: value for name, value in one.items() if name != "unlabelled"} for one in distilled]
    (augmented, reported) = (stage for stage in recipe["stages"] if {"augment", "report"} & {*stage})
    stages = [{"label": None}, *({"distill": one} for one in distilled), reported]
    return again(recipe, [augmented, *stages] if more else stages, "more" if more else "plain")


def beside(more: Path, plain: Path) -> dict:
    """The two students as their reports have them."""
    one, other = (record_of(read_json(path, hint="run it again")) for path in (more, plain))
    return {
        **{name: one[name] for name in ("split", "examples", "metric", "software", "hardware")},
        "teacher": one["teacher"]["metric"],
        "with": one["students"][STUDENT],
        "without": other["students"][STUDENT],
    }


def markdown(content: dict) -> str:
    lines = [
        "# Texts with other words in them",
        "",
        f"`{content['command']}`, after the recipes.",
        "",
        "| two layers | teacher | without | of the teacher | agreement | with | of the teacher | agreement |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for recipe, task in content["tasks"].items():
        cells = [f"{title(recipe)}, {task['examples']:,} of {task['split']}, {task['metric'].replace('_', ' ')}"]
        cells += [f"{task['teacher']:.4f}"]
        for one in (task["without"], task["with"]):
            cells += [f"{one['metric']:.4f}", f"{one['of_teacher']:.1%}", f"{one['nearness']:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Both start from the same base and learn for as many passes, features first, then answers; with the four",
        "copies of each text a pass is five times as long. Agreement is the share of equal answers; of scores it is",
        "their correlation with the teacher's. One seed.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
