"""How a training ended, for tables that bring many trainings together: ``result.json`` in its folder."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ase_geomol.files import write_atomically

RESULT = "result.json"


def write_result(out: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Write ``found`` with hardware, versions and date into ``out``; return all of it.

    Raises:
        OutputError: ``out`` cannot be written.
    """
    result = {
        **found,
        "hardware": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            **({"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        },
        "versions": {name: version(name) for name in ("ase_geomol", "torch", "numpy")},
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomically(out / RESULT, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    return result


def read_results(folder: Path) -> dict[Path, dict[str, Any]]:
    """Every ``result.json`` one level below ``folder``, by the folder that holds it."""
    return {file.parent: json.loads(file.read_text()) for file in sorted(folder.glob(f"*/{RESULT}"))}


def processor() -> str:
    """Name of the processor; "" if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
