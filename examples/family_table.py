"""The family's table and picture, of what family.py has collected."""

from collections import defaultdict
from pathlib import Path
from statistics import mean

from seeds import written
from tkd_hf.reporting.figures import BLUE, GREY, RED, plt, save


# the stages whose models are the family's sizes, the largest first, and the names of those that are published
SIZES = {
    "distill-2": "3 layers",
    "prune": "3 layers, fewer tokens",
    "quantize": "3 layers, int8 (ONNX)",
    "prune-2": "3 narrow layers, fewer tokens",
    "quantize-2": "3 narrow layers, int8 (ONNX)",
    "distill-4": "2 layers",
    "prune-3": "2 layers, fewer tokens",
    "quantize-3": "2 layers, int8 (ONNX)",
}
PUBLISHED = {"distill-2": "{recipe}", "quantize": "{recipe}-int8", "quantize-2": "{recipe}-narrow-int8"}
# at the depth of TKD-NLP's paper, beside the family
DEEP, DEEP_SIZES, DEEP_PUBLISHED = "tkd-12l-sst2", {"distill": "12 layers of 8 heads"}, {"distill": "{recipe}"}
# of their teachers, which are larger, and not on these tasks alone: name, share, times as fast
OTHERS = (("DistilBERT", 0.97, 1.6), ("TinyBERT4", 0.968, 9.4), ("CoFi", 0.95, 12.0))
AGREEMENT = 0.9832  # of TKD-NLP's paper
GLUE = [f"tkd-nlp-{task}" for task in ("sst2", "mrpc", "stsb", "cola", "rte")]
TITLES = {
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "cola": "CoLA",
    "rte": "RTE",
    "banking77": "Banking77",
    "clinc150": "CLINC150",
    "reviews": "movie reviews",
}


def means(tasks: dict) -> dict:
    """Over tasks, of the sizes that every task has; what is above the teacher's counts as the teacher's."""
    found = {}
    for stage in SIZES:
        students = [task["students"][stage] for task in tasks.values() if stage in task["students"]]
        if tasks and len(students) == len(tasks):
            found[stage] = {
                "of_teacher": mean(min(one["of_teacher"]["mean"], 1.0) for one in students),
                "standard_error": standard_error([one["of_teacher"] for one in students]),
                "nearness": mean(one["nearness"]["mean"] for one in students),
                "speedup": mean(one["speedup"] for one in students),
                "smaller": mean(one["smaller"] for one in students),
            }
    return found


def standard_error(spreads: list[dict]) -> float | None:
    """Of a mean over tasks, by the seeds that each was run on; `None` where one was run on a single one."""
    if any(one["sd"] is None for one in spreads):
        return None
    return sum(one["sd"] ** 2 / len(one["values"]) for one in spreads) ** 0.5 / len(spreads)


def mean_of_glue(tasks: dict, stage: str = "distill-2") -> float | None:
    """What students of three layers keep on the mean of GLUE's tasks, counted as in `means`."""
    shares = [min(tasks[name]["students"][stage]["of_teacher"]["mean"], 1.0) for name in GLUE if name in tasks]
    return mean(shares) if len(shares) == len(GLUE) else None


def overview(content: dict) -> list[str]:
    """A line a task, of the sizes that are published; README has it, too."""
    lines = [
        "| | teacher | 3 layers, % | int8, % | faster | smaller | narrow int8, % | faster | smaller |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for recipe, task in content["tasks"].items():
        whole, int8, least = (task["students"][stage] for stage in PUBLISHED)
        cells = [title(recipe), f"{task['teacher']['metric']['mean']:.3f}", kept(whole)]
        cells += [kept(int8), *costs(int8), kept(least), *costs(least)]
        lines.append(f"| {' | '.join(cells)} |")
    if content["means"]:
        published = (content["means"][stage] for stage in PUBLISHED)  # which every recipe makes
        whole, int8, least = ((f"**{100 * one['of_teacher']:.1f}**", *costs(one)) for one in published)
        lines.append(f"| {' | '.join(['**mean**', '', whole[0], *int8, *least])} |")
    return lines


def title(recipe: str) -> str:
    return TITLES[recipe.removeprefix("tkd-nlp-")]


def kept(one: dict) -> str:
    """The share of the teacher's metric, in percent and few letters; the metrics stand in the table of all sizes."""
    return written(one["of_teacher"], ".1%").replace("%", "").replace(" ", "")


def costs(one: dict) -> tuple[str, str]:
    return f"{one['speedup']:.1f}×", f"{one['smaller']:.1f}×"


def markdown(content: dict) -> str:
    lines = [
        "# The family",
        "",
        f"`{content['command']}`, of the recipes in [examples/recipes](../recipes), each one `tkd-hf run`.",
        "",
        *overview(content),
        "",
        "![what is kept, against speed](family.png)",
        "",
        "All sizes:",
        "",
        "| | metric | of the teacher | agreement | p50 ms | faster | MB | smaller |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for recipe, task in content["tasks"].items():
        lines += task_lines(recipe, task)
    for stage, one in content["means"].items():
        shares = f"{written({'mean': one['of_teacher'], 'sd': one['standard_error']}, '.2%')} | {one['nearness']:.4f}"
        faster, smaller = costs(one)
        lines.append(f"| mean over tasks, {SIZES[stage]} | | {shares} | | {faster} | | {smaller} |")
    if content["mean_of_glue"]:
        lines.append(f"| mean over GLUE's five, 3 layers | | {content['mean_of_glue']:.2%} | | | | | |")
    for recipe, task in content["deep"].items():
        lines += task_lines(recipe, task, DEEP_PUBLISHED)
    return "\n".join([*lines, "", *about(content), ""])


def task_lines(recipe: str, task: dict, published: dict[str, str] = PUBLISHED) -> list[str]:
    teacher = task["teacher"]
    named = (
        f"**[{recipe}](../recipes/{recipe}.yaml)**, {task['examples']:,} of {task['split']}, {task['metric']}: teacher"
    )
    head = f"| {named} | {written(teacher['metric'], '.4f')} | | | {teacher['milliseconds']:.1f} | "
    head += f"| {teacher['megabytes']:.1f} | |"
    names = {stage: name.format(recipe=recipe) for stage, name in published.items()}
    return [head, *(student_line(names.get(stage), one) for stage, one in task["students"].items())]


def student_line(name: str | None, one: dict) -> str:
    about = f"[{one['about']}](../../model_cards/{name}/README.md)" if name else one["about"]
    return (
        f"| {about} | {written(one['metric'], '.4f')} | {written(one['of_teacher'], '.2%')} "
        f"| {written(one['nearness'], '.4f')} | {one['milliseconds']:.1f} | {one['speedup']:.1f}× "
        f"| {one['megabytes']:.1f} | {one['smaller']:.1f}× |"
    )


def about(content: dict) -> list[str]:
    """What the figures mean, and what they are to be compared with."""
    return [
        "The teacher is MiniLM of six layers, fine-tuned by the recipe, in float32 and PyTorch. In int8 means "
        "matrices; embeddings are in int4 there. Milliseconds are for "
        "one of the real texts on one thread, all of a task in turns, on "
        f"{machines(content['tasks'] or content['deep'])}. "
        "Agreement is the share of equal answers; of scores it is their correlation with the teacher's. In the means, "
        "shares above 100 % count as 100 %. ± is the standard deviation over seeds of the students' training, from one "
        "teacher a task; what has none is of one seed. ± of a mean over tasks is the standard error that follows. The "
        "cards give intervals.",
        "",
        "The aim is 99 % of the teacher at ten times its speed and a tenth of its size on the mean of the tasks, and "
        f"{AGREEMENT:.2%} agreement. What others published: TinyBERT4 96.8 % at 9.4 times the speed and a 7.5th of the "
        "size, DistilBERT 97 % at 1.6 times and a 1.7th, CoFi 95 % at 12 times.",
    ]


def machines(tasks: dict) -> str:
    """The processor that most tasks were timed on, and which were timed on others."""
    timed = defaultdict(list)
    for recipe, task in tasks.items():
        timed[task["hardware"]["cpu"]].append(recipe)
    (commonest, _), *others = sorted(timed.items(), key=lambda one: -len(one[1]))
    return ", ".join([commonest, *(f"of {' and '.join(map(title, some))} on {cpu}" for cpu, some in others)])


def draw(path: Path, tasks: dict) -> None:
    """A row a task: what the published sizes keep of its teacher, and how fast they are; beneath, what others have."""
    figure, (kept, fast) = plt.subplots(1, 2, sharey=True, figsize=(10, 0.42 * (len(tasks) + len(OTHERS)) + 1.6))
    rows = [title(recipe) for recipe in tasks] + [name for name, *_ in OTHERS]
    looks = dict(zip(PUBLISHED, (("o", BLUE), ("^", BLUE), ("*", RED)), strict=True))
    for stage, (marker, color) in looks.items():
        found = [task["students"][stage] for task in tasks.values()]
        share = [100 * one["of_teacher"]["mean"] for one in found]
        spreads = [100 * (one["of_teacher"]["sd"] or 0.0) for one in found]
        dots = {"fmt": marker, "color": color, "markersize": 10 if marker == "*" else 7, "linestyle": "none"}
        kept.errorbar(share, range(len(found)), xerr=spreads, label=SIZES[stage], capsize=3, **dots)
        fast.errorbar([one["speedup"] for one in found], range(len(found)), **dots)
    for place, (_, share, times) in enumerate(OTHERS, start=len(tasks)):
        kept.plot(100 * share, place, "x", color=GREY, label="as published" if place == len(tasks) else None)
        fast.plot(times, place, "x", color=GREY)
    kept.axvline(99, color=GREY, linewidth=1, linestyle=":")
    kept.set(xlabel="% of the teacher's metric", yticks=range(len(rows)), yticklabels=rows)
    kept.invert_yaxis()
    fast.axvline(10, color=GREY, linewidth=1, linestyle=":")
    fast.set(xlabel="times as fast as the teacher, one text", xscale="log", xlim=(1, 25))
    fast.set_xticks([1, 2, 3, 5, 10, 20], labels=["1×", "2×", "3×", "5×", "10×", "20×"], minor=False)
    fast.minorticks_off()
    for axis in (kept, fast):
        axis.grid(color="#dddddd", linewidth=0.6)
    kept.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncol=2, frameon=False)
    legend = "dotted: the aim; bars: ± standard deviation over seeds; ×: of other teachers, on other machines"
    save(figure, path, "The family: what is kept, and how fast it is", legend)
