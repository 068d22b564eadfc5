"""Make the tests of the installed transformers importable: `from transformers_tests.test_… import …`.

Only the source distribution of transformers contains them. Importing this module lets pip download the distribution of
the installed version and keeps its `tests/` folder in `.cache/transformers-tests/VERSION/`, which git ignores. A
version in the cache is not downloaded again. The tests import three helper modules that the distribution lacks;
substitutes for them are defined here.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from types import ModuleType


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
                "not download it. Run `python tests/upstream/transformers_tests.py` once with access to a package "
                f"index, or skip these tests with `--ignore=tests/upstream`.\n\n$ {' '.join(command)}\n{pip.stdout}"
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


__path__ = [str(fetch())]  # makes this module a package, from which the downloaded files import each other


def _add_module(name: str, **contents: object) -> None:
    module = ModuleType(f"{__name__}.{name}")
    vars(module).update(contents)
    sys.modules[module.__name__] = module


# Base classes that ModelTesterMixin uses. They are empty here: TKD does not generate text, and the archive lacks the
# tests of the exporters.
_add_module("generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
_add_module("exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))

# Fields of every configuration, each with a value other than its default. ConfigTester passes them and expects to read
# them back; it passes the dtype by name and expects torch.float16.
_add_module(
    "utils.test_configuration_utils",
    config_common_kwargs={
        "output_hidden_states": True,
        "output_attentions": True,
        "return_dict": False,
        "dtype": "float16",
        "chunk_size_feed_forward": 5,
        "architectures": ["SomeModel"],
        "id2label": {0: "no", 1: "yes", 2: "maybe"},
        "label2id": {"no": 0, "yes": 1, "maybe": 2},
        "problem_type": "multi_label_classification",
    },
)
