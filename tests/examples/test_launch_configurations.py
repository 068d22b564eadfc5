"""`accelerate launch` reads the configurations in examples/accelerate."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file


CONFIGURATIONS = sorted((Path(__file__).parents[2] / "examples/accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_accelerate_reads_the_launch_configurations(path):
    assert load_config_from_file(str(path)).num_processes > 1
