"""What a record says of where it was measured."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from benchmarks.record import machine, with_own_kernels
with_own_kernels()
print(sys.argv[1:], os.environ.get("OPENBLAS_CORETYPE"), machine())
"""


@pytest.mark.parametrize("variables", [{}, {"OPENBLAS_CORETYPE": "Nehalem"}, {"OPENBLAS_L2_SIZE": "64"}])
def test_no_speed_is_told_with_the_kernels_of_another_cpu(variables: dict[str, str]) -> None:
    others = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    command = [sys.executable, "-c", PROGRAM, "an argument"]
    told = subprocess.run(command, env=others | variables, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("['an argument'] None ")
    assert "cores, openblas" in told.stdout and "Nehalem" not in told.stdout
    assert told.stderr == (f"measured without {next(iter(variables))}\n" if variables else "")
