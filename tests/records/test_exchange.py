"""A run folder is replaced whole or not at all, never over an input, and is published only when it is finished."""

import errno
import fcntl
import os
import warnings
from functools import partial
from pathlib import Path

import pytest

from tkd_hf import InputError
from tkd_hf.records.run_folder import LOCK_NAME, RECORD_NAME, RunFolder, StageRecord, check_finished, finished_run


def record(layers: int = 3) -> StageRecord:
    return StageRecord("distill", {"teacher": "t"}, {"layers": layers}, software={}, hardware={})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def started(folder: Path) -> RunFolder:
    run = RunFolder(folder, record())
    run.start()
    return run


OLD, NEW = {"model.safetensors": "old", "onnx/model.onnx": "old"}, {"model.safetensors": "new", "vocab.txt": "new"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def content(folder: Path) -> dict[str, str]:
    """Return what people and later commands see in a run folder, without the record."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != RECORD_NAME]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_text() for name, path in names.items() if not name.startswith(".tkd_run.")}


def exported(folder: Path, **kwargs) -> RunFolder:
    run = RunFolder(folder, record(layers=2), **kwargs)
    if not run.done:
        with run.replace_when_done() as temporary:
            write(temporary, NEW)
    return run


def restarted(folder: Path, **kwargs) -> RunFolder:
    run = RunFolder(folder, record(layers=2), **kwargs)
    run.start()
    return run


def killed_at(step: int, work) -> bool:
    """Do some work in a process that dies before its `step`-th change of a folder; return whether it died."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child only works with files
        process = os.fork()
    if process:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert status in (0, 9)
        return status == 9
    try:
        steps = iter(range(1, 1000))
        for name in ("rename", "replace", "mkdir", "rmdir", "unlink"):

            def dying(*args, call=getattr(os, name), **kwargs):
                if next(steps) == step:
                    os._exit(9)
                return call(*args, **kwargs)

            setattr(os, name, dying)
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


@pytest.mark.parametrize("work", [exported, restarted])
@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_kill_at_any_step_of_a_replacement_leaves_a_way_on(tmp_path, work, turn):
    """The folder holds the old run, nothing, or the new one, never a mixture, and the same command leads on.

    Each case kills 15 to 30 processes. All three together go on from each step without flags, with --overwrite and with
    --resume.
    """
    kills, files = 0, {"notes.txt": "mine", "checkpoint-7/trainer_state.json": "old"}
    for step in range(1, 100):
        folder = tmp_path / str(step)
        started(folder).finish({})
        write(folder, OLD | files)
        if not killed_at(step, partial(work, folder, overwrite=True)):
            break
        kills += 1
        try:
            run = work(folder, **({}, {"overwrite": True}, {"resume": True})[(step + turn) % 3])
        except InputError as error:
            if "--overwrite" not in str(error):
                raise
            assert content(folder) in ({"notes.txt": "mine"}, OLD | files)
            run = work(folder, overwrite=True)
        assert run.record.arguments["layers"] == 2
        assert run.checkpoint is None
        assert content(folder) == (NEW if work is exported else {}) | {"notes.txt": "mine"}
        assert {path.name for path in folder.glob(".*")} <= {LOCK_NAME}
    assert kills >= 10


@pytest.mark.parametrize("output", [".", "link", "dangling", "../run/../run"])
def test_a_replacement_keeps_the_folder_itself_which_may_be_a_mount_or_a_link(tmp_path, monkeypatch, output):
    folder, target = tmp_path / "run", tmp_path / "target"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if output == "dangling":
        Path(output).symlink_to(target)
        holder = target
    elif output == "link":
        target.mkdir()
        Path(output).symlink_to(target)
        holder = target
    else:
        holder = folder
    if holder.exists():
        (holder / "lost+found").mkdir()  # as in a new volume
    existed, inode = holder.exists(), holder.exists() and holder.stat().st_ino
    exported(Path(output))
    exported(Path(output), overwrite=True)
    assert content(holder) == NEW
    assert not existed or holder.stat().st_ino == inode
    assert Path(output).is_symlink() == output.endswith(("link", "dangling"))


def test_a_result_that_cannot_be_moved_is_kept_and_moved_by_the_same_command(folder, monkeypatch):
    started(folder).finish({})
    write(folder, OLD)
    with monkeypatch.context() as patch:
        replace = os.replace

        def busy(source, target):
            if Path(source).name == "vocab.txt":
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))
            return replace(source, target)

        patch.setattr(os, "replace", busy)
        with pytest.raises(InputError, match=r"cannot be moved into .*busy: .*vocab.txt\); it is kept in .*installing"):
            exported(folder, overwrite=True)
        assert (folder / ".tkd_run.installing" / "vocab.txt").read_text() == "new"
    assert exported(folder).done
    assert content(folder) == NEW


def test_an_old_entry_that_is_a_mount_point_is_emptied(folder, monkeypatch):
    started(folder).finish({})
    write(folder, {"pictures/old.png": "old", "pictures/more/old.png": "old"})
    replace = os.replace

    def mounted(source, target):
        if Path(source).name == "pictures":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        return replace(source, target)

    monkeypatch.setattr(os, "replace", mounted)
    exported(folder, overwrite=True)
    assert content(folder) == NEW
    assert list((folder / "pictures").iterdir()) == []


def test_an_output_that_is_or_holds_an_input_is_refused_and_untouched(tmp_path, monkeypatch):
    teacher = tmp_path / "runs" / "teacher"
    started(teacher).finish({})
    write(teacher, OLD | {"notes.txt": "mine"})
    (tmp_path / "link").symlink_to(teacher)
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in teacher.rglob("*")}
    (tmp_path / "texts.csv").touch()
    for output in (teacher, "runs/teacher", "runs/../link", "runs", "."):
        for name in ("teacher", "model", "mlm"):
            with pytest.raises(InputError, match=r"the output .* (is itself read by|holds .*, which) this command"):
                RunFolder(output, StageRecord("x", {name: "link"}, {}), overwrite=True)
    for reads in ("texts.csv", "texts.csv:train"):
        with pytest.raises(InputError, match=r"holds texts\.csv, which"):
            RunFolder(tmp_path, record(), overwrite=True, reads=[reads])
    with pytest.raises(InputError, match="which this command reads"):
        RunFolder(tmp_path, StageRecord("x", {"data": {"dataset": str(tmp_path / "texts.csv")}}, {}))
    assert {path: path.stat().st_mtime_ns for path in teacher.rglob("*")} == before
    RunFolder(teacher / "onnx8", StageRecord("quantize", {"model": str(teacher)}, {}))  # an export goes there


def test_only_a_finished_run_that_nobody_writes_is_published(folder):
    run = started(folder)
    with pytest.raises(InputError, match=r"the run distill in .*run has not finished; repeat .* --resume"):
        check_finished(folder)
    with pytest.raises(InputError, match="has not finished"), finished_run(folder):
        pass
    run.finish({})
    with open(folder / LOCK_NAME) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is using"), finished_run(folder):
            pass
        fcntl.flock(file, fcntl.LOCK_UN)
        with finished_run(folder), pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / ".tkd_run.installing").mkdir()
    with pytest.raises(InputError, match="has not finished"):
        check_finished(folder)
    check_finished(folder.parent)  # a model that no run made
