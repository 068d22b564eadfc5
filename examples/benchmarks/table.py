"""The benchmark's table: medians over rounds, and ratios within them."""

from statistics import median

from clock import PHASES
from contenders import MEMORY, OURS
from peers import PEERS


REFERENCES = ("plain Trainer", *PEERS)
PADDED_LOOP = "labelling, padded loop"


def summary(runs: list[dict]) -> list[dict]:
    """One row for each contender, in the order of the table; all runs are of one precision."""
    names = [*OURS, *REFERENCES, *MEMORY, *(run["contender"] for run in runs)]
    training, labelling = _fastest(runs, REFERENCES), _fastest(runs, (PADDED_LOOP,))
    peak = max(run["peak"] for run in runs)
    by_name = {name: {run["seed"]: run for run in runs if run["contender"] == name} for name in names}
    return [
        _row(name, own, labelling if name.startswith("labelling") else training, peak)
        for name, own in by_name.items()
        if own
    ]


def _fastest(runs: list[dict], names: tuple[str, ...]) -> dict[int, float]:
    """Examples a second of the fastest of the others, by round."""
    fastest = {}
    for run in runs:
        if run["contender"] in names:
            fastest[run["seed"]] = max(run["examples"], fastest.get(run["seed"], 0.0))
    return fastest


def _row(name: str, own: dict[int, dict], fastest: dict[int, float], peak: float) -> dict:
    def middle(field: str) -> float | None:
        values = [run[field] for run in own.values() if field in run]
        return median(values) if values else None

    ratios = [run["examples"] / fastest[seed] for seed, run in own.items() if seed in fastest]
    row = {"contender": name, "precision": next(iter(own.values()))["precision"], "rounds": len(own)}
    row |= {field: middle(field) for field in ("examples", "peak_megabytes", "accuracy")}
    row["rate"] = median(run["flops"] / run["seconds"] for run in own.values())
    row["utilisation"] = row["rate"] / peak
    row["of_fastest_peer"] = median(ratios) if ratios else None
    phases = [run["phases"] for run in own.values() if "phases" in run]
    row["phases"] = {phase: median(one[phase] for one in phases) for phase in PHASES} if phases else None
    return row


def markdown(content: dict) -> str:
    rows = content["rows"]
    lines = [
        "# Training: ours and the others",
        "",
        f"`{content['command']}`",
        "",
        f"A student of {content['layers']} layers on SST-2, {content['steps']} steps of {content['batch_size']} "
        f"examples: one pass over the same examples for everyone. Medians of {content['rounds']} rounds, in which all "
        "took turns; × is against the fastest other at that precision in the same round.",
        "Utilisation is the rate of arithmetic on real tokens (the teacher's forward too, where it ran), as a share of "
        f"the largest that a matrix product reached at that precision in any of the runs, {content['peak'] / 1e9:,.0f} "
        "GFLOP/s.",
    ]
    if not content["hardware"]["bf16"]:
        lines.append(
            "This processor emulates bfloat16: figures in bf16, if any, say nothing of one that computes in it."
        )
    if content["absent"]:
        lines.append(f"Not installed, and passed over: {', '.join(content['absent'])}.")
    trained = [row for row in rows if row["phases"]]
    head = ["", "", "examples/s", "×", "peak MB", "utilisation", "accuracy", *PHASES]
    lines += ["", *as_table(head, [_cells(row) for row in trained])]
    labelled = [row for row in rows if not row["phases"]]
    if labelled:
        cells = [
            [row["contender"], row["precision"], f"{row['examples']:.0f}", _times(row), f"{row['utilisation']:.0%}"]
            for row in labelled
        ]
        lines += ["", "Labelling, once for all trainings; × is against the padded loop of the same round:", ""]
        lines += as_table(["", "", "examples/s", "×", "utilisation"], cells)
    lines += ["", machine(content["hardware"], content["software"])]
    return "\n".join([*lines, ""])


def _cells(row: dict) -> list[str]:
    return [
        row["contender"],
        row["precision"],
        f"{row['examples']:.1f}",
        _times(row),
        f"{row['peak_megabytes']:.0f}",
        f"{row['utilisation']:.0%}",
        f"{row['accuracy']:.4f}",
        *(f"{row['phases'][phase]:.0%}" for phase in PHASES),
    ]


def _times(row: dict) -> str:
    return f"{row['of_fastest_peer']:.2f}×" if row["of_fastest_peer"] else "–"


def machine(hardware: dict, software: dict) -> str:
    """What it was measured on, in a line."""
    return f"{hardware['accelerator'] or hardware['cpu']}, {hardware['threads']} threads, {software['torch']}."


def as_table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
