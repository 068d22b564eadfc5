"""How large the study is: tasks, steps, students and seeds, in full and as small as tests need it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What a student is trained and measured on.

    Args:
        task: the GLUE task.
        steps: optimisation steps, the same for every recipe.
        tokens: mean length of a training example, for estimates of time.
        examples: how many training examples, chosen at random with a fixed seed; all by default.
        held_out: measure on a tenth of the training examples, on which neither teacher nor student is trained, and
            leave the validation split alone. For choosing.
    """

    task: str
    steps: int
    tokens: float
    examples: int | None = None
    held_out: bool = False

    @property
    def held_out_name(self) -> str | None:
        """Of the data and the teacher, which all settings of the task that are held out share."""
        return f"{self.task}-held-out" if self.held_out else None


@dataclass(frozen=True)
class Size:
    """A size of the study.

    Args:
        settings: by name, in the order of the tables; the name is the task's except for variants of one.
        teacher_epochs: of fine-tuning the teacher of each task.
        teacher_layers: of all teachers, for estimates of time.
        students: layers; the deepest first.
        seeds: of the comparisons.
        batch_size, save_steps: of all students.
        rounds: how often training is timed; the setting is `timing`.
        batch_sizes: over which inference is timed, and training, less the first.
        compared_tasks, taken_apart_tasks, softness_tasks, tuned_tasks: settings of the comparisons, the ablation,
            temperature and soft weight (classes, therefore), and those to choose recipes on.
    """

    name: str
    settings: dict[str, Setting]
    teacher_epochs: dict[str, int]
    teacher_layers: int
    students: tuple[int, ...]
    seeds: tuple[int, ...]
    batch_size: int
    save_steps: int
    rounds: int
    batch_sizes: tuple[int, ...]
    compared_tasks: tuple[str, ...]
    taken_apart_tasks: tuple[str, ...]
    softness_tasks: tuple[str, ...]
    tuned_tasks: tuple[str, ...]


FULL = Size(
    name="full",
    settings={
        "sst2": Setting("sst2", steps=1000, tokens=13.3, examples=20_000),  # 1.6 passes
        "mrpc": Setting("mrpc", steps=344, tokens=53.2),  # three
        "stsb": Setting("stsb", steps=360, tokens=27.8),  # two
        "cola": Setting("cola", steps=536, tokens=11.3),  # two
        "rte": Setting("rte", steps=234, tokens=66.6),  # three
        "mrpc-held-out": Setting("mrpc", steps=344, tokens=53.2, held_out=True),
        "stsb-held-out": Setting("stsb", steps=360, tokens=27.8, held_out=True),
        "timing": Setting("mrpc", steps=10, tokens=53.2, examples=320),
    },
    teacher_epochs={"sst2": 2, "mrpc": 5, "stsb": 5, "cola": 5, "rte": 5},
    teacher_layers=6,
    students=(3, 2),
    seeds=(0, 1, 2),
    batch_size=32,
    save_steps=200,
    rounds=3,
    batch_sizes=(1, 8, 32),
    compared_tasks=("sst2", "mrpc", "stsb", "cola", "rte"),
    taken_apart_tasks=("stsb",),  # on which a standard error is smallest
    softness_tasks=("mrpc", "cola"),
    tuned_tasks=("stsb-held-out", "mrpc-held-out"),
)

QUICK = Size(
    name="quick",
    settings={
        "sst2": Setting("sst2", steps=4, tokens=6, examples=16),
        "stsb": Setting("stsb", steps=2, tokens=10),
        "sst2-held-out": Setting("sst2", steps=2, tokens=6, held_out=True),
        "timing": Setting("sst2", steps=2, tokens=6, examples=16),
    },
    teacher_epochs={"sst2": 1, "stsb": 1},
    teacher_layers=2,
    students=(1,),
    seeds=(0, 1),
    batch_size=8,
    save_steps=2,
    rounds=1,
    batch_sizes=(1, 4),
    compared_tasks=("sst2", "stsb"),
    taken_apart_tasks=("sst2",),
    softness_tasks=("sst2",),
    tuned_tasks=("sst2-held-out",),
)
