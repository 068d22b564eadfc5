"""The family: teachers and students of eight tasks, each made by one recipe, with three seeds per student.

    python benchmarks/family.py --data-dir DATA                                # every recipe with seeds 42, 1 and 2
    python benchmarks/family.py --data-dir DATA --recipes tkd-nlp-sst2 --seeds 42
    python benchmarks/family.py --collect                                      # only read the runs that are finished

Run `tkd-hf run benchmarks/recipes/tkd-base.yaml` first: all students start from its encoders. Seed 42 runs the recipe
itself; the other seeds start from the teacher that seed 42 made. Stages that are finished are skipped. Every finished
run becomes one row of benchmarks/results.json: what each student keeps of its teacher, its agreement, latency
and size.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml
from transformers import AutoTokenizer

from common import (
    QUICK_TRAINING,
    environment,
    parser_of,
    read_options,
    save_rows,
    say,
    tiny_dataset,
    tiny_model,
    tiny_task,
    tiny_texts,
)
from tkd_hf import TKDModel, student_from_teacher
from tkd_hf.data.tasks import GLUE_TASKS


RECIPES = Path(__file__).parent / "recipes"
FIRST_SEED, SEEDS = 42, (42, 1, 2)
# stage of the recipe -> its student; int8 students run in ONNX Runtime, all others in PyTorch and float32
SIZES = {
    "distill-2": "3 layers",
    "prune": "3 layers, smaller vocabulary",
    "quantize": "3 layers, int8",
    "prune-2": "3 narrow layers, smaller vocabulary",
    "quantize-2": "3 narrow layers, int8",
    "distill-4": "2 layers",
    "prune-3": "2 layers, smaller vocabulary",
    "quantize-3": "2 layers, int8",
}
TWELVE_LAYERS = {"distill": "12 layers of 8 heads"}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "runs")
    names = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "tkd-base")
    parser.add_argument("--recipes", nargs="+", choices=names, default=names, help="recipes to run (all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of the students (42 1 2)")
    parser.add_argument("--collect", action="store_true", help="run nothing; read the reports of finished runs")
    options = read_options(parser, arguments)

    rows = []
    for seed in options.seeds:
        for name in options.recipes:
            folder = options.work_dir / (name if seed == FIRST_SEED else f"{name}-s{seed}")
            if not options.collect:
                say(f"{name}, seed {seed}")
                recipe = for_seed(load_recipe(name, options), seed, options.work_dir / name)
                run_recipe(recipe, folder, options.data_dir, seed)
            if (folder / "report" / "report.json").exists():
                rows.append(row_of(folder, name, seed))
    command = "python benchmarks/family.py --data-dir DATA"
    save_rows(options.results, rows, key=("recipe", "seed"), section="family", command=command)


def load_recipe(name: str, options) -> dict:
    """Return a recipe; in the quick size, the same stages with one step each on tiny models and data."""
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    if not options.quick:
        return recipe
    options.data_dir = str(options.work_dir / "data")
    return quick_recipe(recipe, options.work_dir)


def for_seed(recipe: dict, seed: int, first_run: Path) -> dict:
    """Return the recipe for another seed: it takes the first seed's teacher, and its report needs few rounds."""
    if seed == FIRST_SEED:
        return recipe
    stages = [stage for stage in recipe["stages"] if not {"finetune", "card"} & {*stage}]
    stages = [{"report": stage["report"] | {"rounds": 10}} if "report" in stage else stage for stage in stages]
    return {"teacher": str(teacher_of(recipe, first_run)), "data": recipe["data"], "stages": stages}


def teacher_of(recipe: dict, run: Path) -> Path:
    """Return the folder of the teacher that a run of the recipe made: that of its last fine-tuning."""
    count = sum("finetune" in stage for stage in recipe["stages"])
    return run / ("finetune" if count == 1 else f"finetune-{count}")


def run_recipe(recipe: dict, folder: Path, data_dir: str | None, seed: int) -> None:
    """Write the recipe beside the run's folder and run it with `tkd-hf run`, which skips finished stages."""
    path = folder.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    tkd_hf_run("run", path, "--output-dir", folder, "--seed", seed, *(["--data-dir", data_dir] if data_dir else []))


def tkd_hf_run(*arguments) -> None:
    """Run `tkd-hf` in a process of its own."""
    subprocess.run([sys.executable, "-m", "tkd_hf", *map(str, arguments)], check=True)


def row_of(folder: Path, recipe: str, seed: int) -> dict:
    """Return the row of a finished run from its report."""
    report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    teacher, *students = report["evaluation"]["models"]
    metric, value = next(iter(teacher["metrics"].items()))
    costs = {Path(model["name"]).name: model for model in report["benchmark"]["models"]}
    teacher_name = Path(teacher["name"]).name
    sizes = TWELVE_LAYERS if "12l" in recipe else SIZES
    stages = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/tkd_run.json")]
    return {
        "recipe": recipe,
        "seed": seed,
        **{name: report["evaluation"][name] for name in ("task", "split", "examples")},
        "metric": metric,
        "minutes": round(sum(stage["seconds"] or 0 for stage in stages) / 60, 1),
        **environment("onnxruntime"),
        "date": report["finished"][:10],
        "teacher": {"value": value, **cost_of(costs[teacher_name])},
        "students": {
            sizes[stage]: {
                "value": student["metrics"][metric],
                "agreement": agreement(student["fidelity"]),
                "speedup": costs[stage]["timings"][0]["speedup"],
                **cost_of(costs[stage]),
            }
            for student in students
            if (stage := Path(student["name"]).name) in sizes
        },
    }


def cost_of(model: dict) -> dict[str, float]:
    """Return the median latency for one real text, in milliseconds, and the size on disk."""
    return {"milliseconds": model["timings"][0]["p50"], "megabytes": model["megabytes"]}


def agreement(fidelity: dict) -> float:
    """Return the share of equal predictions; for scores, the correlation with the teacher's scores."""
    return fidelity["pearson"] if fidelity["agreement"] is None else fidelity["agreement"]


# --- the quick size


def quick_recipe(recipe: dict, folder: Path) -> dict:
    """Return the recipe with one step per stage, on a tiny encoder and texts that are written into `folder`."""
    encoder = tiny_model(folder / "encoder")
    recipe = yaml.safe_load(yaml.safe_dump(recipe).replace("runs/tkd-base", str(folder / "tkd-base")))
    recipe["teacher" if "teacher" in recipe else "model"] = encoder
    stages = [(name, options or {}) for stage in recipe["stages"] for name, options in stage.items()]
    if "task" in recipe.get("data", {}):
        task = recipe["data"]["task"]
        tiny_task(folder / "data", task)
        named = {name for _, options in stages for name in [options.get("task"), *(options.get("unlabelled") or [])]}
        for name in named & GLUE_TASKS.keys() - {task}:
            tiny_task(folder / "data", name, first=100)  # texts that the task itself does not have
    elif "data" in recipe:
        label = recipe["data"].get("label_column", "label")
        dataset = tiny_dataset(folder / "dataset", label)
        fields = {name: value for name, value in recipe["data"].items() if name != "dataset_config"}
        recipe["data"] = fields | {"dataset": dataset}
    write_encoders(folder / "tkd-base", encoder)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "train.txt").write_text("\n".join(tiny_texts(64)), encoding="utf-8")
    changes = {
        "pretrain": QUICK_TRAINING | {"dataset": str(corpus), "heads": 2, "max_length": 8},
        "finetune": QUICK_TRAINING,
        "augment": {"neighbours": encoder},
        "distill": QUICK_TRAINING,
        "prune": QUICK_TRAINING | {"target_speedup": None, "target_params": 0.95},  # speeds of tiny models are noise
        "report": {"rounds": 1, "batch_sizes": "1", "lengths": "8"},
    }
    recipe["stages"] = [
        {name: options if "no_train" in options else options | changes.get(name, {})} for name, options in stages
    ]
    recipe.pop("output_dir")
    return recipe


def write_encoders(folder: Path, encoder: str) -> None:
    """Write what tkd-base.yaml makes, but untrained: encoders of three and of two layers."""
    for name, layers in (("pretrain", 3), ("pretrain-2", 2)):
        student_from_teacher(encoder, model_class=TKDModel, num_hidden_layers=layers).save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(encoder).save_pretrained(folder / name)


if __name__ == "__main__":
    main()
