"""Freed memory is kept, where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from ase_geomol import GeoMolCalculator

def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**23, dtype=torch.float64)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touch()
given_back = touch()
GeoMolCalculator("geomformer-organic", device="cpu")
touch()
print(given_back, touch())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do as they do")
def test_a_calculator_on_the_processor_keeps_freed_memory():
    """64 MB that are freed and asked for again are 16,384 pages that the kernel hands out, or none."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    given_back, kept = map(int, ran.stdout.split())
    assert given_back > 10_000
    assert kept < 100
