"""The paper's experiments (TKD-NLP, arXiv 2405.11704), each one command.

    python examples/paper/run.py comparison --encoder MINILM --data-dir DATA

1 `baseline`: without distillation; 2 `temperature` and soft weight; 3 `precision`: speed and memory; 4 `ablation`;
5 `comparison` with the recipes of DistilBERT and TinyBERT; 6 `resources`: time and memory over batch sizes; and
`tuning`, for choosing on held-out training data. Several may be named. What students reach that start from a
pre-trained base and learn from all of SST-2 is the family's (examples/family.py).

Each writes `<results-dir>/<experiment>.md`, `.json` and `.png` from its records, one JSON file for every (recipe, task,
student, seed). What has a record is not run again, what was interrupted goes on from its checkpoint, and several
processes may run at the same time, best of one thread each (OMP_NUM_THREADS=1); `precision` and `resources` want the
machine for themselves. MINILM is a folder or Hub id of MiniLM-L6-H384, of which the teachers are fine-tuned
(`examples/quickstart.py` fetches one into runs/quickstart/minilm); DATA holds `<task>/train.parquet` and
`validation.parquet` with the Hub's columns; without it they come from the Hub.
"""

import argparse
import os
import sys
from pathlib import Path


os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.append(str(Path(__file__).parents[1]))  # what it shares with the other examples

import costs
import tiny
from costs import Costs
from experiments import EXPERIMENTS
from report import report
from sizes import FULL, QUICK
from study import Run, Study
from tkd_hf import InputError
from tkd_hf.cli.output import announce


COSTS = {"precision": costs.precision, "resources": costs.resources}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        study = make_study(options)
        for name in options.experiments:
            written = (of_costs if name in COSTS else of_runs)(study, name, options)
            print(written.read_text(encoding="utf-8"))
    except InputError as error:
        announce(f"error: {error}")
        return 2
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", choices=[*EXPERIMENTS, *COSTS], metavar="EXPERIMENT")
    parser.add_argument("--quick", action="store_true", help="random models and data made in code, a few steps: a test")
    parser.add_argument("--encoder", help="what teachers are fine-tuned from")
    parser.add_argument("--data-dir", help="local copies of the tasks")
    parser.add_argument(
        "--teachers", type=Path, help="folder with <task>-teacher-s<seed>, taken instead of making them"
    )
    parser.add_argument("--work-dir", type=Path, help="data, teachers and runs under way; by default in runs/")
    parser.add_argument("--results-dir", type=Path, help="by default examples/paper/results; of --quick in --work-dir")
    parser.add_argument("--keep", action="store_true", help="keep the students' weights")
    parser.add_argument("--recipes", nargs="+", help="run only these")
    parser.add_argument("--tasks", nargs="+", help="run only these")
    parser.add_argument("--students", nargs="+", type=int, help="run only those of so many layers")
    parser.add_argument("--seeds", nargs="+", type=int, help="run only these")
    parser.add_argument("--report", action="store_true", help="run nothing; write the tables of what is there")
    return parser.parse_args(arguments)


def make_study(options: argparse.Namespace) -> Study:
    work = options.work_dir or Path("runs/paper-quick" if options.quick else "runs/paper")
    if not options.quick:
        results = options.results_dir or Path(__file__).parent / "results"
        return Study(FULL, options.encoder, options.data_dir, options.teachers, work, results, options.keep)
    encoder, data = tiny.make_encoder(work / "encoder"), tiny.make_data(work / "tiny-data")
    results = options.results_dir or work / "results"
    return Study(QUICK, encoder, data, options.teachers, work, results, options.keep)


def of_runs(study: Study, name: str, options: argparse.Namespace) -> Path:
    experiment = EXPERIMENTS[name](study.size)
    runs = [run for run in experiment.runs() if chosen(run, options)]
    if not runs:
        raise InputError(
            f"{name} has no such runs: its recipes are {', '.join(experiment.recipes)}; its tasks "
            f"{', '.join(experiment.settings)}; its students' layers {', '.join(map(str, experiment.students))}; its "
            f"seeds {', '.join(map(str, experiment.seeds))}"
        )
    missing = study.missing(runs)
    hours = study.seconds(missing) / 3600
    announce(f"{name}: {len(missing)} of {len(runs)} runs to make, {hours:.1f} hours of one process")
    if not options.report:
        study.fill(runs, command(name, study))
    return report(study, name, experiment, command(name, study))


def of_costs(study: Study, name: str, options: argparse.Namespace) -> Path:
    measured = Costs(study)
    cases = measured.precision_cases() if name == "precision" else measured.resource_cases()
    if not options.report and any(measured.record(case) is None for case in cases):
        measured.fill(measured.prepared(cases), command(name, study))
    return COSTS[name](measured, command(name, study))


def chosen(run: Run, options: argparse.Namespace) -> bool:
    wanted = (options.recipes, options.tasks, options.students, options.seeds)
    own = (run.recipe, run.setting, run.layers, run.seed)
    return all(only is None or value in only for only, value in zip(wanted, own, strict=True))


def command(name: str, study: Study) -> str:
    """What one would type to make it again, without this machine's paths."""
    rest = "--quick" if study.size.name == "quick" else "--encoder MINILM --data-dir DATA"
    return f"python examples/paper/run.py {name} {rest}"


if __name__ == "__main__":
    sys.exit(main())
