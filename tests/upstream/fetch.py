"""Fetch the test helpers of the installed transformers, which only its source distribution carries.

`python tests/upstream/fetch.py` asks pip for the source distribution of exactly the installed version and keeps its
`tests/` folder under `.cache/transformers-tests/VERSION/` (git-ignored). What is already there is not fetched again.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath


CACHE = Path(__file__).resolve().parents[2] / ".cache" / "transformers-tests"


def fetch() -> Path:
    """The folder with the tests of the installed transformers, downloaded first if need be."""
    release = version("transformers")
    folder = CACHE / release
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{release}-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", "transformers", "--dest", scratch, f"transformers=={release}"]
        pip = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        archives = list(Path(scratch).glob("*.tar.gz"))
        if pip.returncode or len(archives) != 1:
            raise RuntimeError(
                f"The common model tests come from the source distribution of transformers {release}, and pip could "
                "not download it. Run `python tests/upstream/fetch.py` once where pip reaches its package index, or "
                f"leave them out with `--ignore=tests/upstream`.\n\n$ {' '.join(command)}\n{pip.stdout}"
            )
        unpacked = Path(scratch) / "tests"
        _unpack(archives[0], unpacked)
        try:
            unpacked.rename(folder)  # all or nothing, so an interrupted fetch leaves nothing that looks complete
        except OSError:
            if not folder.is_dir():  # it is there when another process (pytest -n) was faster
                raise
    return folder


def _unpack(archive: Path, target: Path) -> None:
    """Write the plain files below `*/tests/` of the archive, and nothing outside `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or len(parts) < 3 or parts[1] != "tests" or ".." in parts:
                continue
            path = target.joinpath(*parts[2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)
    # The archive lacks it, and test_configuration_common.py loads it by this path.
    (target / "__init__.py").touch()


if __name__ == "__main__":
    try:
        print(fetch())
    except RuntimeError as error:
        sys.exit(str(error))
