"""The family: the cards of its students, and one table of all, from the recipes that have been run.

    tkd-hf run examples/recipes/tkd-nlp-mrpc.yaml && python examples/family.py

Of each recipe in examples/recipes/ whose folder in runs/ holds a report it writes the cards of the students that are
published, `model_cards/<name>/` (README.md, its pictures, and card.json, of which it is made), and their rows in
examples/results/family.json and family.md. A recipe that was run on other seeds, too, is given with their spread:

    tkd-hf run examples/recipes/tkd-nlp-mrpc.yaml --seed 1 --output-dir runs/tkd-nlp-mrpc-s1
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

from tkd_hf.files import read_json
from tkd_hf.hub.card import Card
from tkd_hf.hub.folder import CARD, PICTURES
from tkd_hf.stages.card import card, card_of
from tkd_hf.stages.report import REPORT_JSON
from tkd_hf.stages.run_folder import StageRecord


RECIPES = Path(__file__).parent / "recipes"
# the stages whose models are the family's sizes, the largest first, and the names of those that are published
SIZES = {
    "distill-2": "3 layers",
    "prune": "3 layers, fewer tokens",
    "quantize": "3 layers, int8 (ONNX)",
    "distill-4": "2 layers",
    "prune-2": "2 layers, fewer tokens",
    "quantize-2": "2 layers, int8 (ONNX)",
}
PUBLISHED = {"distill-2": "{recipe}", "quantize": "{recipe}-int8", "quantize-2": "{recipe}-2l-int8"}
AGREEMENT = 0.9832  # of TKD-NLP's paper
CARD_JSON = "card.json"


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--cards-dir", type=Path, default=Path("model_cards"))
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    options = parser.parse_args(arguments)

    tasks = {}
    for recipe in sorted(path.stem for path in RECIPES.glob("tkd-nlp-*.yaml")):
        reports = reports_of(options.runs_dir, recipe)
        if reports:
            publish(reports[0].parent, recipe, options.cards_dir)
            tasks[recipe] = summary([read_json(report / REPORT_JSON, way_out="run it again") for report in reports])
    content = {"command": "python examples/family.py", "tasks": tasks, "means": means(tasks)}
    options.results_dir.mkdir(parents=True, exist_ok=True)
    (options.results_dir / "family.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (options.results_dir / "family.md").write_text(markdown(content), encoding="utf-8")


def reports_of(runs: Path, recipe: str) -> list[Path]:
    """The folders of the reports, one a seed that has been run."""
    seeds = [runs / recipe, *sorted(runs.glob(f"{recipe}-s[0-9]*"))]
    return [seed / "report" for seed in seeds if (seed / "report" / REPORT_JSON).exists()]


def publish(run: Path, recipe: str, cards: Path) -> None:
    """The cards of a run's published students."""
    for stage, name in PUBLISHED.items():
        name = name.format(recipe=recipe)
        card(run / stage, run / "report", repo_id=name, language="en")
        write_card(card_of(run / stage, repo_id=name), cards / name)
        shutil.copytree(run / stage / PICTURES, cards / name / PICTURES, dirs_exist_ok=True)


def write_card(found: Card, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(page_of(found), encoding="utf-8")
    (folder / CARD_JSON).write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")


def page_of(found: Card) -> str:
    return found.render(language="en")


def load_card(folder: Path) -> Card:
    content = json.loads((folder / CARD_JSON).read_text(encoding="utf-8"))
    return Card(**content | {"record": StageRecord(**content["record"])})


def summary(reports: list[dict]) -> dict:
    """What a task's students are beside their teacher, one report a seed; times and sizes are the first one's."""
    evaluation, benchmark = reports[0]["evaluation"], reports[0]["benchmark"]
    metric, taught = next(iter(evaluation["models"][0]["metrics"].items()))
    timed = {Path(one["name"]).name: one for one in benchmark["models"]}
    students = {}
    for stage, about in SIZES.items():
        evaluated = [seed for report in reports if (seed := of_stage(report, stage))]
        if evaluated:
            real_texts = timed[stage]["timings"][0]
            students[stage] = {
                "about": about,
                "metric": spread([seed["metrics"][metric] for seed, _ in evaluated]),
                "of_teacher": spread(
                    [share(seed["metrics"][metric], own["metrics"][metric]) for seed, own in evaluated]
                ),
                "nearness": spread([nearness(seed["fidelity"]) for seed, _ in evaluated]),
                "speedup": real_texts["speedup"],
                "milliseconds": real_texts["p50"],
                "megabytes": timed[stage]["megabytes"],
                "smaller": benchmark["models"][0]["megabytes"] / timed[stage]["megabytes"],
            }
    first = benchmark["models"][0]
    return {
        "task": evaluation["task"],
        "split": evaluation["split"],
        "examples": evaluation["examples"],
        "metric": metric,
        "teacher": {"metric": taught, "milliseconds": first["timings"][0]["p50"], "megabytes": first["megabytes"]},
        "students": students,
        "software": benchmark["software"],
        "hardware": benchmark["hardware"],
    }


def of_stage(report: dict, stage: str) -> tuple[dict, dict] | None:
    """The evaluation of a stage's model, and of its teacher."""
    teacher, *models = report["evaluation"]["models"]
    return next(((model, teacher) for model in models if Path(model["name"]).name == stage), None)


def share(value: float, taught: float) -> float:
    """Of the teacher's metric; of one that has learned nothing there is none."""
    return value / taught if taught else 0.0


def nearness(fidelity: dict) -> float:
    """To the teacher: the share of equal answers, of scores their correlation."""
    return fidelity["agreement"] if fidelity["agreement"] is not None else fidelity["pearson"]


def spread(values: list[float]) -> dict:
    return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None, "values": values}


def means(tasks: dict) -> dict:
    """Over tasks, of the sizes that are published."""
    found = {}
    for stage in PUBLISHED if tasks else ():
        students = [task["students"][stage] for task in tasks.values()]
        found[SIZES[stage]] = {
            "of_teacher": mean(one["of_teacher"]["mean"] for one in students),
            "speedup": mean(one["speedup"] for one in students),
            "smaller": mean(one["smaller"] for one in students),
        }
    return found


def markdown(content: dict) -> str:
    lines = [
        "# The family",
        "",
        f"`{content['command']}`, of the recipes in [examples/recipes](../recipes), each one `tkd-hf run`.",
        "",
        "| | metric | of the teacher | agreement | p50 ms | faster | MB | smaller |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for recipe, task in content["tasks"].items():
        lines += task_lines(recipe, task)
    for name, one in content["means"].items():
        kept, times = f"{one['of_teacher']:.2%}", (f"{one['speedup']:.1f}×", f"{one['smaller']:.1f}×")
        lines.append(f"| mean over tasks, {name} | | {kept} | | | {times[0]} | | {times[1]} |")
    return "\n".join([*lines, "", *about(content), ""])


def task_lines(recipe: str, task: dict) -> list[str]:
    teacher = task["teacher"]
    named = (
        f"**[{recipe}](../recipes/{recipe}.yaml)**, {task['examples']:,} of {task['split']}, {task['metric']}: teacher"
    )
    head = f"| {named} | {teacher['metric']:.4f} | | | {teacher['milliseconds']:.1f} | | {teacher['megabytes']:.1f} | |"
    return [head, *(student_line(recipe, stage, one) for stage, one in task["students"].items())]


def student_line(recipe: str, stage: str, one: dict) -> str:
    name = PUBLISHED.get(stage, "").format(recipe=recipe)
    about = f"[{one['about']}](../../model_cards/{name}/README.md)" if name else one["about"]
    return (
        f"| {about} | {written(one['metric'], '.4f')} | {written(one['of_teacher'], '.2%')} "
        f"| {written(one['nearness'], '.4f')} | {one['milliseconds']:.1f} | {one['speedup']:.1f}× "
        f"| {one['megabytes']:.1f} | {one['smaller']:.1f}× |"
    )


def written(values: dict, form: str) -> str:
    return f"{values['mean']:{form}}" + (f" ± {values['sd']:{form}}" if values["sd"] is not None else "")


def about(content: dict) -> list[str]:
    """What the figures mean, and what they are to be compared with."""
    cpus = {task["hardware"]["cpu"] for task in content["tasks"].values()}
    return [
        "The teacher is MiniLM of six layers, fine-tuned by the recipe, in float32 and PyTorch. Milliseconds are for "
        f"one of the real texts on one thread, all of a task in turns, on {' and '.join(sorted(cpus))}. "
        "Agreement is the share of equal answers; of scores it is their correlation with the teacher's.",
        "",
        "The aim is 99 % of the teacher at ten times its speed and a tenth of its size on the mean of the tasks, and "
        f"{AGREEMENT:.2%} agreement. What others published: TinyBERT4 96.8 % at 9.4 times the speed and a 7.5th of the "
        "size, DistilBERT 97 % at 1.6 times and a 1.7th, CoFi 95 % at 12 times.",
    ]


if __name__ == "__main__":
    main()
