"""Other seeds of the family's students: the same recipes and the same teachers.

    python examples/family_seeds.py --data-dir DATA             # seeds 1 and 2, of all recipes that ran
    python examples/family_seeds.py --data-dir DATA --depths 1  # without the students of two layers

Of each recipe in examples/recipes/ that has been run it writes `runs/<recipe>-s<seed>.yaml`, which starts from the
teacher that the recipe made, and runs it into `runs/<recipe>-s<seed>`; what is done is skipped. `python
examples/family.py` then gives the spread.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

from family import RECIPES


STAGES_A_DEPTH = 2  # that distil: features, then answers


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes-dir", type=Path, default=RECIPES)
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--depths", type=int, default=2, help="how many, three layers first; with all made of them")
    parser.add_argument("--recipes", nargs="+", help="run only these")
    options = parser.parse_args(arguments)

    for seed in options.seeds:
        for recipe in taught(options.recipes_dir, options.recipes).values():
            run(without_teacher(recipe, seed, options.depths), options.data_dir, "--seed", str(seed))


def taught(folder: Path, names: list[str] | None = None) -> dict[str, dict]:
    """The family's recipes whose teacher is there, by name; only those of `names`, if there are any."""
    found = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.glob("tkd-nlp-*.yaml")}
    chosen = {name: found[name] for name in sorted(found) if name in (names or found)}
    return {name: recipe for name, recipe in chosen.items() if teacher_of(recipe).exists()}


def teacher_of(recipe: dict) -> Path:
    """Where the recipe's last fine-tuning leaves its teacher."""
    count = sum("finetune" in stage for stage in recipe["stages"])
    return Path(recipe["output_dir"]) / ("finetune" if count == 1 else f"finetune-{count}")


def without_teacher(recipe: dict, seed: int, depths: int) -> dict:
    """What of the recipe depends on the seed, given its teacher; students keep the names of their stages."""
    stages = [stage for stage in recipe["stages"] if not {"finetune", "report", "card"} & {*stage}]
    distilled = [place for place, stage in enumerate(stages) if "distill" in stage]
    further = distilled[STAGES_A_DEPTH * depths :]
    (measured,) = (stage["report"] for stage in recipe["stages"] if "report" in stage)
    report = {"report": measured | {"rounds": 10}}  # of the times only those of the first seed are given
    return again(recipe, [*stages[: further[0] if further else None], report], f"s{seed}")


def again(recipe: dict, stages: list[dict], name: str) -> dict:
    """Other stages with the recipe's teacher and data, in a folder beside the recipe's."""
    return {
        "teacher": str(teacher_of(recipe)),
        "data": recipe["data"],
        "stages": stages,
        "output_dir": f"{recipe['output_dir']}-{name}",
    }


def run(recipe: dict, data_dir: str | None, *words: str) -> None:
    """Writes a recipe beside its folder, and runs it; what is done is skipped."""
    path = Path(f"{recipe['output_dir']}.yaml")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    place = ["--data-dir", data_dir] if data_dir else []
    subprocess.run([sys.executable, "-m", "tkd_hf", "run", path, *words, *place], check=True)


if __name__ == "__main__":
    main()
