"""The engine: every run is one record, made once; a repeated command makes only what is missing.

Several processes may work on one study: each claims a run by a lock that the system frees when a process ends, however
it ends. An interrupted run goes on from its last checkpoint.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from datasets import Dataset
from filelock import FileLock, Timeout
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, set_seed

from recipes import ANSWERS, Recipe, recipes
from sizes import Setting, Size
from tkd_hf import DistillationTrainingArguments, FineTuningArguments, InputError, student_from_teacher
from tkd_hf.cli.output import announce
from tkd_hf.data.loading import DataArguments, load_split
from tkd_hf.data.tasks import get_task
from tkd_hf.layer_map import layer_map
from tkd_hf.soft_labels import teacher_revision
from tkd_hf.stages.distill import distill
from tkd_hf.stages.evaluate import Evaluation, evaluate
from tkd_hf.stages.finetune import finetune
from tkd_hf.stages.label import label
from tkd_hf.stages.run_folder import StageRecord
from tkd_hf.stages.student import StudentArguments, dropouts


LEARNING_RATE, TEACHER_LEARNING_RATE = 2e-4, 1e-4
HELD_OUT = 0.1
# tokens x (3 for forward and backward of each student layer + 1 for each layer of a live teacher) a second: a guess for
# MiniLM on one thread of a small machine, until finished records of the study replace it
PACE = 11_000.0


@dataclass(frozen=True)
class Run:
    """One student: which recipe, on what, of how many layers, with which seed."""

    recipe: str
    setting: str
    layers: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.recipe}/{self.setting}-{self.layers}l-s{self.seed}"


class Study:
    """Teachers, data and records of a study.

    Args:
        size: tasks and their steps.
        encoder: folder or Hub id of the encoder that teachers are fine-tuned from; not needed where they are there.
        data_dir: local copies of the tasks, as in `DataArguments`; from the Hub by default.
        teachers: a folder with `<task>-teacher-s<seed>`, taken as they are; by default they are made in `work`.
        work: data, teachers and weights of students under way.
        results: tables and figures, with the records beneath.
        keep: keep the weights of finished students.
    """

    def __init__(
        self,
        size: Size,
        encoder: str | None,
        data_dir: str | None,
        teachers: Path | None,
        work: Path,
        results: Path,
        keep: bool = False,
    ):
        self.size, self.encoder, self.data_dir, self.keep = size, encoder, data_dir, keep
        self.teachers = teachers.resolve() if teachers else None
        self.work, self.results = work.resolve(), results
        self._ready, self._labelled, self._revisions = set(), set(), {}

    # --- records

    def record(self, run: Run) -> dict | None:
        """The run's record, if there is one, made with the settings of today and with the teacher that is there.

        Without that teacher it counts too: each seed has a teacher of its own and may be run on another machine.
        """
        found = read_record(self._path(run))
        if not found or found["settings"] != self.settings(run):
            return None
        revision = self._revision(self._teacher_folder(run.setting, run.seed))
        return found if revision in (None, found["teacher"]["revision"]) else None

    def settings(self, run: Run) -> dict:
        """What decides a run's result, beside its teacher."""
        recipe = recipes(run.layers)[run.recipe]
        setting = self.size.settings[run.setting]
        content = {
            **{name: value for name, value in asdict(setting).items() if name != "tokens"},
            "layers": run.layers,
            "seed": run.seed,
            "start": recipe.start,
            "stages": [self._stage(recipe, setting, stage) for stage in recipe.stages],
            **({} if recipe.dropout is None else {"dropout": recipe.dropout}),
        }
        return json.loads(json.dumps(content))

    def missing(self, runs: list[Run]) -> list[Run]:
        """Those without a record."""
        return [run for run in runs if self.record(run) is None]

    def seconds(self, runs: list[Run]) -> float:
        """Estimate for one process: at the pace of the runs that are there, or of the machine this was written on."""
        finished = [record for path in self.results.glob("records/*/*.json") if (record := read_record(path))]
        paces = [record["work"] / record["seconds"] for record in finished if record.get("work") and record["seconds"]]
        return sum(map(self._work, runs)) / (median(paces) if paces else PACE)

    # --- making them

    def fill(self, runs: list[Run], command: str) -> None:
        """Makes the records that are missing, in this order, except those that another process is at."""
        for run in runs:
            with claimed(self.work / "locks" / f"{run.name.replace('/', '-')}.lock") as free:
                if not free:
                    announce(f"{run.name} is being made by another process")
                elif self.record(run) is None:
                    left = self.missing(runs)
                    hours = self.seconds(left) / 3600
                    announce(f"{run.name}; {len(left)} of {len(runs)} to make, {hours:.1f} hours of one process")
                    self._make(run, command)

    def _make(self, run: Run, command: str) -> None:
        settings, recipe = self.settings(run), recipes(run.layers)[run.recipe]
        teacher, data = self.teacher(run.setting, run.seed), self.data(run.setting)
        identity = hashlib.sha256(json.dumps([settings, teacher_revision(teacher)]).encode()).hexdigest()[:8]
        folder = self.work / "students" / f"{run.name}-{identity}"
        resumed = folder.exists()
        student, stages = self._start(run, recipe, teacher, folder), []
        for number, arguments in enumerate(settings["stages"], start=1):
            output = str(folder / f"stage-{number}")
            stages.append(
                distill(
                    teacher,
                    data,
                    DistillationTrainingArguments(
                        output, seed=run.seed, save_steps=self.size.save_steps, **arguments, **QUIET
                    ),
                    student,
                    soft_labels=self._soft_labels(teacher, data) if not live(arguments) else None,
                    resume=True,
                )
            )
            student = StudentArguments(student=output)
        evaluation = evaluate(student.student, data, teacher)
        write_record(self._path(run), self._describe(run, settings, stages, evaluation, resumed, command))
        if not self.keep:
            shutil.rmtree(folder)

    def _describe(
        self, run: Run, settings: dict, stages: list[StageRecord], evaluation: Evaluation, resumed: bool, command: str
    ) -> dict:
        taught, student = evaluation.models
        return {
            "run": asdict(run),
            "size": self.size.name,
            "command": command,
            "settings": settings,
            "split": evaluation.split if not settings["held_out"] else "a held-out part of train",
            "examples": evaluation.examples,
            "metrics": student.metrics,
            "agreement": student.agreement,
            "teacher": {"revision": stages[0].inputs["teacher_revision"], "metrics": taught.metrics},
            "parameters": {"student": student.parameters.total, "teacher": taught.parameters.total},
            "data": {name: stages[0].inputs[name] for name in ("train", "eval")},
            "arguments": [{k: v for k, v in stage.arguments.items() if k != "student"} for stage in stages],
            "seconds": None if resumed else round(sum(stage.seconds for stage in stages), 1),
            "resumed": resumed,  # a resumed run is the same run, but nobody timed the whole of it
            "work": self._work(run),
            "finished": stages[-1].finished,
            "software": evaluation.software,
            "hardware": evaluation.hardware,
        }

    def _stage(self, recipe: Recipe, setting: Setting, stage: dict) -> dict:
        common = {
            "max_steps": setting.steps // len(recipe.stages),
            "per_device_train_batch_size": self.size.batch_size,
            "learning_rate": LEARNING_RATE,
        }
        return common | stage

    def _work(self, run: Run) -> float:
        setting, stages = self.size.settings[run.setting], self.settings(run)["stages"]
        layers = [3 * run.layers + (self.size.teacher_layers if live(stage) else 0) for stage in stages]
        steps = sum(stage["max_steps"] * units for stage, units in zip(stages, layers, strict=True))
        return steps * self.size.batch_size * setting.tokens

    def _path(self, run: Run) -> Path:
        return self.results / "records" / f"{run.name}.json"

    # --- what runs start from

    def data(self, name: str) -> DataArguments:
        """The data of a setting: the task's own, or the part of it that the setting names, written once."""
        setting = self.size.settings[name]
        task = DataArguments(task=setting.task, data_dir=self.data_dir)
        if setting.examples is None and not setting.held_out:
            return task
        name = setting.held_out_name or name
        folder = self.work / "data" / name
        with FileLock(lock_path(self.work / "locks" / f"data-{name}.lock")):
            if not (folder / setting.task / "validation.parquet").exists():
                rows = load_split(task, "train")[0].shuffle(seed=0)
                cut = setting.examples or round(len(rows) * (1 - HELD_OUT))
                held_out = rows.select(range(cut, len(rows)))
                evaluation = held_out if setting.held_out else load_split(task, "eval")[0]
                write_split(rows.select(range(cut)), folder, setting.task, "train")
                write_split(evaluation, folder, setting.task, "validation")
        return DataArguments(task=setting.task, data_dir=str(folder))

    def teacher(self, name: str, seed: int) -> str:
        """The folder of a setting's teacher with that seed, fine-tuned first if need be."""
        folder = self._teacher_folder(name, seed)
        if folder not in self._ready:
            if self._given(name) and not (folder / "config.json").exists():
                raise InputError(f"no teacher in {folder}; leave --teachers out to have one made of --encoder")
            if not self._given(name):
                self._finetune(name, folder, seed)
            self._ready.add(folder)
        return str(folder)

    def _given(self, name: str) -> bool:
        return self.teachers is not None and not self.size.settings[name].held_out

    def _teacher_folder(self, name: str, seed: int) -> Path:
        setting = self.size.settings[name]
        key = setting.held_out_name or setting.task
        return (self.teachers if self._given(name) else self.work / "teachers") / f"{key}-teacher-s{seed}"

    def _revision(self, folder: Path) -> str | None:
        if folder not in self._revisions and (folder / "config.json").exists():
            self._revisions[folder] = teacher_revision(str(folder))
        return self._revisions.get(folder)

    def _finetune(self, name: str, folder: Path, seed: int) -> None:
        setting = self.size.settings[name]
        if not self.encoder:
            raise InputError(f"no teacher for {name}: give --teachers, or an --encoder to make one of")
        data = self.data(name) if setting.held_out else DataArguments(task=setting.task, data_dir=self.data_dir)
        args = FineTuningArguments(
            str(folder),
            num_train_epochs=self.size.teacher_epochs[setting.task],
            per_device_train_batch_size=2 * self.size.batch_size if setting.task == "sst2" else self.size.batch_size,
            learning_rate=TEACHER_LEARNING_RATE,
            seed=seed,
            save_steps=self.size.save_steps,
            **QUIET,
        )
        with FileLock(lock_path(self.work / "locks" / f"{folder.name}.lock")):
            announce(f"teacher of {name}, seed {seed}")
            finetune(self.encoder, data, args, resume=True)

    def _soft_labels(self, teacher: str, data: DataArguments) -> Path:
        """The teacher's soft labels, completed by one process at a time."""
        path = self.work / "soft-labels" / f"{Path(teacher).name}.safetensors"
        if (teacher, data) not in self._labelled:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock_path(self.work / "locks" / f"labels-{Path(teacher).name}.lock")):
                label(teacher, data, path=path)
            self._labelled.add((teacher, data))
        return path

    def _start(self, run: Run, recipe: Recipe, teacher: str, folder: Path) -> StudentArguments:
        if recipe.start != "random":
            config = AutoConfig.from_pretrained(teacher)
            layers = tuple(layer_map(recipe.start, run.layers, config.num_hidden_layers))
            dropout = config.hidden_dropout_prob if recipe.dropout is None else recipe.dropout
            return StudentArguments(layers, dropout=dropout)
        path = folder / "random"
        if not path.exists():
            set_seed(run.seed)
            shape = student_from_teacher(
                AutoModelForSequenceClassification.from_pretrained(teacher),
                num_hidden_layers=run.layers,
                **dropouts(recipe.dropout),
            )
            type(shape)(shape.config).save_pretrained(path)
            AutoTokenizer.from_pretrained(teacher).save_pretrained(path)
        return StudentArguments(student=str(path))


QUIET = {"report_to": "none", "save_strategy": "steps", "save_total_limit": 1, "logging_steps": 50}


def live(stage: dict) -> bool:
    """Whether a stage runs the teacher on each batch."""
    return any(name not in ANSWERS for name in stage["objectives"])


def write_split(rows: Dataset, folder: Path, task: str, split: str) -> None:
    """Writes rows with the columns that the task has on the Hub, so that the file is complete or not there."""
    columns = dict(zip(("text", "text_pair"), get_task(task).text_columns, strict=False))
    (folder / task).mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{task}-{split}.tmp"
    rows.rename_columns(columns).to_parquet(temporary)
    os.replace(temporary, folder / task / f"{split}.parquet")


def read_record(path: Path) -> dict | None:
    """A record, if it is there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_record(path: Path, content: dict) -> None:
    """Writes a record so that it is complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Holds the lock, or says that another process does."""
    lock = FileLock(lock_path(path))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def lock_path(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
