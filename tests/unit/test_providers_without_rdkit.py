"""Without RDKit each way into the providers ends as the sentence that names the extra."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ase_geomol

FREE = ("io_format", "smiles_files", "volumes", "worker")
WAYS = [
    "from ase_geomol import RDKitProvider",
    "from ase_geomol import ConformerProvider",
    "from ase.io import read; read('x.smi', format='smiles')",
    *(
        f"import ase_geomol.providers.{path.stem}"
        for path in sorted((Path(ase_geomol.__file__).parent / "providers").glob("[a-z]*.py"))
        if path.stem not in FREE
    ),
]


def test_each_way_in_names_the_extra(tmp_path):
    (tmp_path / "x.smi").write_text("C\n")
    program = (
        "import sys; sys.modules['rdkit'] = None\n"
        f"import {', '.join(f'ase_geomol.providers.{name}' for name in FREE)}\n"
        "from ase.io.formats import define_external_io_format, ioformats\n"
        "from importlib.metadata import EntryPoint\n"
        "point = EntryPoint('smiles', 'ase_geomol.providers.io_format:SMILES', 'ase.ioformats')\n"
        "if 'smiles' not in ioformats:\n"
        "    define_external_io_format(point)\n"
        "for way in sys.argv[1:]:\n"
        "    try:\n"
        "        exec(way)\n"
        "    except ImportError as error:\n"
        "        print(type(error).__name__, error)\n"
        "    else:\n"
        "        print(way, 'works')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(ase_geomol.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, *WAYS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = "MissingExtraError Making structures of molecules needs rdkit: install it with  pip install "
    lines = dict(zip(WAYS, done.stdout.splitlines(), strict=True))
    assert {way: line for way, line in lines.items() if line != f"{told}'ase_geomol[providers]'."} == {}
