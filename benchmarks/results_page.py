"""Write docs/results.md: the text of results_page.md.jinja with the tables of the result files.

Run `python benchmarks/results_page.py` after benchmarks/results.json or the text has changed. With
`--quickstart runs/quickstart`, the results of the quickstart's runs (`results-<seed>.json`) are stored first.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

from jinja2 import Environment, StrictUndefined

import results_tables
from common import RESULTS, environment, mean_and_deviation, save_rows, with_deviation
from contenders import CONTENDERS
from family import SIZES
from operations import PARTS, REMAINDER
from results_tables import QUICKSTART_MODELS, TITLES, as_table, measured_on, percent, rows_of, shares, tasks


PAGE = Path(__file__).parent.parent / "docs" / "results.md"
TEMPLATE = Path(__file__).parent / "results_page.md.jinja"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, help="Folder of the quickstart's runs, to store their results.")
    folder = parser.parse_args(arguments).quickstart
    if folder:
        save_rows(RESULTS, quickstart_rows(folder), ("seed", "model"), section="quickstart")
    PAGE.write_text(page(), encoding="utf-8")


def quickstart_rows(folder: Path) -> list[dict]:
    """Return one row per model of each run of examples/quickstart.py in a folder."""
    rows = []
    for path in sorted(folder.glob("results-*.json")):
        seed, content = int(path.stem.partition("-")[2]), json.loads(path.read_text(encoding="utf-8"))
        for name, result in zip(QUICKSTART_MODELS, content["models"], strict=True):
            rows.append(
                {
                    "seed": seed,
                    "model": name,
                    "split": content["split"],
                    "examples": content["examples"],
                    "accuracy": result["metrics"]["accuracy"],
                    "agreement": result["fidelity"] and result["fidelity"]["agreement"],
                    "milliseconds": result["milliseconds"],
                    "megabytes": result["megabytes"],
                    "command": f"python examples/quickstart.py --seed {seed}",
                    **environment("onnxruntime"),
                }
            )
    return rows


def page() -> str:
    """Return the text of the template with the tables in it."""
    tables = {
        "worst_cases": worst_cases(),
        "family": results_tables.family(),
        "quickstart": results_tables.quickstart(),
        "out_of_domain": results_tables.out_of_domain(),
        "pruning": results_tables.pruning(),
        "quantization": results_tables.quantization(),
        "recipes": results_tables.recipes_compared(),
        "parts": results_tables.parts_of_the_recipe(),
        "resources": results_tables.resources(),
        "training": training(),
        "labelling": labelling(),
        "operations": operations(),
    }
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render({name: "\n".join(lines) for name, lines in tables.items()})


# --- speed


def training() -> list[str]:
    setups = defaultdict(dict)
    for row in rows_of("training"):
        setups[row["machine"], row["precision"], row["batch_size"]][row["contender"]] = row
    setups = dict(sorted(setups.items(), key=lambda item: median(item[1]["ours"]["of_fastest_peer"])))
    rows = []
    for contender in CONTENDERS:
        cells_of = [by_name.get(contender) for by_name in setups.values()]
        rows.append([contender, *(rate_and_ratio(row, "examples_per_second", "of_fastest_peer") for row in cells_of)])
    ours = [by_name["ours"] for by_name in setups.values()]
    rows.append(["rounds × steps", *(f"{len(row['seeds'])} × {row['steps']}" for row in ours)])
    rows.append(["utilisation of ours", *(f"{row['utilisation']:.1%}" for row in ours)])
    rows.append(["ours, peak MB", *(f"{row['peak_megabytes']:,.0f}" for row in ours)])
    rows.append(["ours, time spent on making batches", *(f"{row['phases']['data']:.0%}" for row in ours)])
    rows.append(["ours, accuracy", *(f"{row['accuracy']:.3f}" for row in ours)])
    accuracies = [
        [row["accuracy"] for name, row in by.items() if not name.startswith("ours")] for by in setups.values()
    ]
    rows.append(["others, accuracy", *(f"{min(values):.3f} to {max(values):.3f}" for values in accuracies)])
    head = [f"{machine}, {precision}, batches of {size}" for machine, precision, size in setups]
    return as_table(["examples per second", *head], rows) + measured_on(rows_of("training"))


def rate_and_ratio(row: dict | None, rate: str, ratio: str) -> str:
    """Return the median rate over rounds, the median ratio, and the smallest and largest ratio of a round."""
    if row is None:
        return ""
    text, ratios = f"{median(row[rate]):,.0f}", row[ratio]
    if len(ratios) < 2:
        return f"{text} ({ratios[0]:.1f}×)" if ratios else text
    return f"{text} ({median(ratios):.1f}×, {min(ratios):.1f} to {max(ratios):.1f})"


def labelling() -> list[str]:
    rows = sorted(rows_of("labelling"), key=lambda row: median(row["of_padded_loop"]))
    cells = [
        [
            *(str(row[name]) for name in ("machine", "teacher", "precision", "batch_size")),
            rate_and_ratio(row, "texts_per_second", "of_padded_loop"),
            f"{row['utilisation']:.0%}",
        ]
        for row in rows
    ]
    head = ["", "teacher", "precision", "batch size", "texts per second (× padded loop)", "utilisation"]
    return as_table(head, cells, text_columns=3) + measured_on(rows)


def operations() -> list[str]:
    rows = rows_of("operations")
    cells = [[part, *(f"{row['milliseconds'][part]:.1f}" for row in rows)] for part in (*PARTS, REMAINDER)]
    cells.append(["total", *(f"{row['total_milliseconds']:.1f}" for row in rows)])
    needed = [row.get("arithmetic_milliseconds") for row in rows]
    cells.append(["the arithmetic at the highest rate", *("" if ms is None else f"{ms:.1f}" for ms in needed)])
    head = [f"{row['precision']}, {row['batch_size']} examples, {row['steps']} steps" for row in rows]
    return as_table(["ms per step", *head], cells) + measured_on(rows)


# --- the worst


def worst_cases() -> list[str]:
    """Return the worst figure of every section, so that it is read first."""
    rows = [*worst_students(), *worst_formats(), *worst_speeds()]
    return as_table(["the worst …", "where", "measured"], rows, text_columns=3)


def worst_students() -> list[list[str]]:
    """Return the lowest share, agreement and out-of-domain share, and the largest spread over seeds."""
    students = [(runs, size) for runs in tasks().values() for size in SIZES.values()]

    def where(runs: list[dict], size: str) -> str:
        return f"{TITLES[runs[0]['recipe'].removeprefix('tkd-nlp-')]}, {size}"

    least = min(students, key=lambda student: mean(shares(*student)))
    distant = min(students, key=lambda student: mean(shares(*student, "agreement")))
    unsteady = max(students, key=lambda student: mean_and_deviation(shares(*student))[1] or 0)
    rows = rows_of("out_of_domain")
    teachers = {row["domain"]: row["accuracy"] for row in rows if row["model"] == "teacher"}
    share, strange = min(((row["accuracy"] / teachers[row["domain"]], row) for row in rows), key=lambda pair: pair[0])
    return [
        ["student, of its teacher", where(*least), f"{percent(shares(*least))} %"],
        ["agreement of a student", where(*distant), with_deviation(shares(*distant, "agreement"), ".3f")],
        ["spread over seeds", where(*unsteady), f"{percent(shares(*unsteady))} % of the teacher"],
        ["texts of another domain", f"{strange['domain']}, {strange['model']}", f"{100 * share:.1f} % of the teacher"],
    ]


def worst_formats() -> list[list[str]]:
    """Return the quantized model that loses most against the same model in float32, and the slowest one."""
    rows = rows_of("quantization")
    floats = {(row["task"], row["model"]): row["value"] for row in rows if row["backend"] == "pytorch"}
    share, lossy = min(
        ((row["value"] / floats[row["task"], row["model"]], row) for row in rows), key=lambda pair: pair[0]
    )
    slow = min(rows, key=lambda row: row["timings"][-1]["speedup"])
    where = f"{TITLES[lossy['task']]}, {lossy['model']}, {lossy['backend']} {lossy['weights']}"
    speed = f"{slow['timings'][-1]['speedup']:.2f}× the teacher in PyTorch and float32, batches of 32"
    return [
        ["quantization, quality", where, f"{100 * share:.1f} % of the same model in float32"],
        ["quantization, speed", f"{slow['model']}, {slow['backend']} {slow['weights']}", speed],
    ]


def worst_speeds() -> list[list[str]]:
    """Return the lowest ratio and utilisation of our training, and the lowest ratio of our labelling."""
    ours = [row for row in rows_of("training") if row["contender"] == "ours"]
    slow = min(ours, key=lambda row: median(row["of_fastest_peer"]))
    idle = min(ours, key=lambda row: row["utilisation"])
    label = min(rows_of("labelling"), key=lambda row: median(row["of_padded_loop"]))
    ratio, rate = median(slow["of_fastest_peer"]), median(label["of_padded_loop"])
    utilisation = f"{100 * idle['utilisation']:.1f} % of the rate of large matrix products"
    teacher = f"{label['machine']}, {label['teacher']}, batches of {label['batch_size']}"
    return [
        ["training speed", f"{slow['machine']}, batches of {slow['batch_size']}", f"{ratio:.1f}× the fastest other"],
        ["utilisation in training", f"{idle['machine']}, batches of {idle['batch_size']}", utilisation],
        ["labelling speed", teacher, f"{rate:.2f}× a padded loop"],
    ]


if __name__ == "__main__":
    main()
