"""Download the tests of the installed transformers, which only its source distribution contains.

`python tests/upstream/fetch.py` lets pip download the source distribution of the installed version and keeps its
`tests/` folder in `.cache/transformers-tests/VERSION/`, which git ignores. A version in the cache is not downloaded
again.
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
    """Return the folder with the tests of the installed transformers, after downloading them if necessary.

    Raises:
        RuntimeError: if pip cannot download them.
    """
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
                "not download it. Run `python tests/upstream/fetch.py` once with access to a package index, or skip "
                f"these tests with `--ignore=tests/upstream`.\n\n$ {' '.join(command)}\n{pip.stdout}"
            )
        unpacked = Path(scratch) / "tests"
        _unpack(archives[0], unpacked)
        try:
            unpacked.rename(folder)  # one step, so that an interrupted download never looks complete
        except OSError:
            if not folder.is_dir():  # another process (pytest -n) may have been faster
                raise
    return folder


def _unpack(archive: Path, target: Path) -> None:
    """Extract the plain files below `*/tests/` into `target`, and nothing outside it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or len(parts) < 3 or parts[1] != "tests" or ".." in parts:
                continue
            path = target.joinpath(*parts[2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)
    # test_configuration_common.py loads this file, which the archive lacks.
    (target / "__init__.py").touch()


if __name__ == "__main__":
    try:
        print(fetch())
    except RuntimeError as error:
        sys.exit(str(error))
