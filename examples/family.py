"""The family: the cards of its students, and one table of all, from the recipes that have been run.

    tkd-hf run examples/recipes/tkd-base.yaml
    tkd-hf run examples/recipes/tkd-nlp-mrpc.yaml && python examples/family.py

Of each recipe in examples/recipes/ whose folder in runs/ holds a report it writes the cards of the students that are
published, `model_cards/<name>/` (README.md, its pictures, and card.json, of which it is made), and what the report says
into `<results-dir>/family/<recipe>.json`; into tkd-base.json beside them how the bases learned. tkd-12l-sst2 is
treated alike, but is not of the means. Of all records of recipes, also of those that ran elsewhere, it makes
family.json, family.md and family.png, and the lines in each recipe that say what to expect of it. Students that other
seeds have been run of, too (family_seeds.py), are given with their spread.
"""

import argparse
import json
import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path

from family_table import DEEP, DEEP_PUBLISHED, DEEP_SIZES, PUBLISHED, SIZES, draw, markdown, mean_of_glue, means
from seeds import spread, spread_of_teachers, written
from tkd_hf.cli.output import write_json
from tkd_hf.files import read_json
from tkd_hf.hub.card import Card
from tkd_hf.hub.folder import CARD, PICTURES
from tkd_hf.stages.card import card, card_from_folder
from tkd_hf.stages.report import REPORT_JSON
from tkd_hf.stages.run_folder import StageRecord


RECIPES = Path(__file__).parent / "recipes"
BASE = "tkd-base"  # what all students start from
CARD_JSON = "card.json"


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes-dir", type=Path, default=RECIPES)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--cards-dir", type=Path, default=Path("model_cards"))
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    options = parser.parse_args(arguments)

    records = options.results_dir / "family"
    records.mkdir(parents=True, exist_ok=True)
    if stages := stages_of(options.runs_dir / BASE):
        write_json(records / f"{BASE}.json", stages)
    recipes = sorted(path.stem for path in options.recipes_dir.glob("tkd-nlp-*.yaml"))
    for recipe in recipes:
        for run in runs_of(options.runs_dir, recipe):
            record = record_of(read_json(run / "report" / REPORT_JSON, hint="run it again"))
            stages = stages_of(run)
            further = {"minutes": minutes_of(stages), "before_answers": before_answers(stages, record["metric"])}
            write_json(records / f"{run.name}.json", record | further)
        if (options.runs_dir / recipe / "report" / REPORT_JSON).exists():
            publish(options.runs_dir / recipe, recipe, PUBLISHED, options.cards_dir)
    for run in runs_of(options.runs_dir, DEEP):
        record = record_of(read_json(run / "report" / REPORT_JSON, hint="run it again"), DEEP_SIZES)
        write_json(records / f"{DEEP}.json", record | {"minutes": minutes_of(stages_of(run))})
        publish(run, DEEP, DEEP_PUBLISHED, options.cards_dir)
    tasks = {recipe: summary(seeds) for recipe in recipes if (seeds := records_of(records, recipe))}
    deep = {DEEP: summary(seeds, DEEP_SIZES)} if (seeds := records_of(records, DEEP)) else {}
    content = {"command": "python examples/family.py", "tasks": tasks, "deep": deep, "means": means(tasks)}
    content["mean_of_glue"] = mean_of_glue(tasks)
    write_json(options.results_dir / "family.json", content)
    (options.results_dir / "family.md").write_text(markdown(content), encoding="utf-8")
    draw(options.results_dir / "family.png", tasks)
    for recipe, task in (tasks | deep).items():
        say_what_to_expect(options.recipes_dir / f"{recipe}.yaml", task)


def runs_of(runs: Path, recipe: str) -> list[Path]:
    """The folders of a recipe's runs that have been reported on, one a seed."""
    found = [runs / recipe, *sorted(runs.glob(f"{recipe}-s[0-9]*"))]
    return [run for run in found if (run / "report" / REPORT_JSON).exists()]


def records_of(folder: Path, recipe: str) -> list[dict]:
    """What has been kept of a recipe's runs, the first seed's first."""
    paths = [folder / f"{recipe}.json", *sorted(folder.glob(f"{recipe}-s[0-9]*.json"))]
    return [read_json(path, hint="delete it and run the recipe again") for path in paths if path.exists()]


def stages_of(run: Path) -> dict[str, dict]:
    """What the stages of a run that have ended reached, how long they took, and where."""
    found = {path.parent.name: read_json(path, hint="run the recipe again") for path in run.glob("*/tkd_run.json")}
    about = ("metrics", "seconds", "software", "hardware")
    return {name: {key: record[key] for key in about} for name, record in sorted(found.items()) if record["finished"]}


def minutes_of(stages: dict[str, dict]) -> float:
    """What the stages of a run took, less the report."""
    return round(sum(stage["seconds"] or 0.0 for stage in stages.values()) / 60, 1)


def before_answers(stages: dict[str, dict], metric: str) -> dict[str, float]:
    """What students of three and of two layers, those that there are, reach by features alone, before answers."""
    return {name: stages[name]["metrics"][metric] for name in ("distill", "distill-3") if name in stages}


def publish(run: Path, recipe: str, students: dict[str, str], cards: Path) -> None:
    """The cards of a run's students, of which stages and patterns of names are given."""
    for stage, name in students.items():
        name = name.format(recipe=recipe)
        card(run / stage, run / "report", repo_id=name, language="en")
        write_card(card_from_folder(run / stage, repo_id=name), cards / name)
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


def record_of(report: dict, sizes: dict[str, str] = SIZES) -> dict:
    """What is kept of a run's report: its students beside their teacher."""
    evaluation, benchmark = report["evaluation"], report["benchmark"]
    teacher, *students = evaluation["models"]
    metric, taught = next(iter(teacher["metrics"].items()))
    timed = {Path(one["name"]).name: costs(one) for one in benchmark["models"]}
    return {
        "task": evaluation["task"],
        "split": evaluation["split"],
        "examples": evaluation["examples"],
        "metric": metric,
        "teacher": {"metric": taught, **costs(benchmark["models"][0])},
        "students": {
            stage: {
                "metric": one["metrics"][metric],
                "of_teacher": share(one["metrics"][metric], taught),
                "nearness": nearness(one["fidelity"]),
                **timed[stage],
            }
            for one in students
            if (stage := Path(one["name"]).name) in sizes
        },
        "software": benchmark["software"],
        "hardware": benchmark["hardware"],
    }


def costs(timed: dict) -> dict[str, float]:
    """A model's time for one of the real texts, how often that is within the teacher's, and its size."""
    first = timed["timings"][0]
    return {"milliseconds": first["p50"], "speedup": first["speedup"], "megabytes": timed["megabytes"]}


def summary(seeds: list[dict], sizes: dict[str, str] = SIZES) -> dict:
    """A task's students over the seeds that each has been run on; times and sizes are the first one's."""
    first, teacher = seeds[0], seeds[0]["teacher"]
    spreads = ("metric", "of_teacher", "nearness")
    return {
        **{name: first[name] for name in ("task", "split", "examples", "metric", "minutes", "software", "hardware")},
        "teacher": teacher | {"metric": spread_of_teachers([seed["teacher"]["metric"] for seed in seeds])},
        "students": {
            stage: {
                "about": about,
                **{name: spread([one[name] for one in students_of(seeds, stage)]) for name in spreads},
                **{name: one[name] for name in ("milliseconds", "speedup", "megabytes")},
                "smaller": teacher["megabytes"] / one["megabytes"],
            }
            for stage, about in sizes.items()
            if (one := first["students"].get(stage))
        },
    }


def students_of(seeds: list[dict], stage: str) -> list[dict]:
    """The students that a stage made of those seeds that it was run on."""
    return [seed["students"][stage] for seed in seeds if stage in seed["students"]]


def share(value: float, taught: float) -> float:
    """Of the teacher's metric; of one that has learned nothing there is none."""
    return value / taught if taught else 0.0


def nearness(fidelity: dict) -> float:
    """To the teacher: the share of equal answers, of scores their correlation."""
    return fidelity["agreement"] if fidelity["agreement"] is not None else fidelity["pearson"]


def say_what_to_expect(path: Path, task: dict) -> None:
    """Writes the figures into the comment at the top of a recipe, in place of those that stand there."""
    above, model, rest = path.read_text(encoding="utf-8").partition("\nmodel: ")
    above = above[: above.rindex("\n#\n")]
    teacher, machine = task["teacher"], task["hardware"]
    sizes = "; ".join(
        f"{one['about']} {written(one['metric'], '.4f')}, {one['megabytes']:.1f} MB, {one['speedup']:.1f} times as fast"
        for one in task["students"].values()
    )
    figures = (
        f"Expect {task['minutes']:.0f} minutes on {machine['threads']} thread(s) of {machine['cpu']}, and "
        f"{task['metric']} on {task['split']}: teacher {written(teacher['metric'], '.4f')}, "
        f"{teacher['megabytes']:.1f} MB; {sizes}."
    )
    lines = textwrap.wrap(figures, width=118, break_on_hyphens=False)
    path.write_text("\n".join([above, "#", *(f"# {line}" for line in lines)]) + model + rest, encoding="utf-8")


if __name__ == "__main__":
    main()
