"""Finished weights: ``geomol-train evaluate``, ``evaluate-conformers``, ``submit``, ``rigidity`` and ``release``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ase_geomol.cli.common import progress

from .common import EnergyKey, ForcesKey, Labels, SkipBad, StressKey, packages, stoppable

Workers = Annotated[
    int | None,
    typer.Option(
        min=0, help="Make the batches in so many other processes; default: on CUDA those that fit, else none."
    ),
]


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A .safetensors file, or the name of a shipped potential.")],
    data: Annotated[
        list[str], typer.Argument(help="File, folder or pattern of labelled structures; several are told apart.")
    ],
    split: Annotated[str | None, typer.Option(help="Only frames of this split of the data, e.g. test.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results, in which several data have one each; default: evaluation/ and PATH."),
    ] = None,
    labels: Labels = "revised",
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    stress_key: StressKey = "stress",
    skip_bad: SkipBad = False,
    max_force: Annotated[float | None, typer.Option(help="eV/Å; a row with a larger force is a bad one.")] = None,
    free_atoms: Annotated[bool, typer.Option(help="Compare forces of free atoms only, as OC20 does.")] = False,
    workers: Workers = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU run.")] = None,
) -> None:
    """Compare a potential, or what else was trained, with labels: MAE and RMSE, a JSON file, a parity plot.

    Results of DATA are in evaluation/ under its own path; the same command goes on after a kill. A row for each of
    several DATA makes one table.

    Examples:

    `geomol-train evaluate runs/rmd17-ethanol/model.safetensors ../shared/data/rmd17/rmd17_ethanol_test_01.npz`

    `geomol-train evaluate geomformer-organic data/organic --split test --max-force 30 --skip-bad`

    `geomol-train evaluate runs/is2re-est/model.safetensors is2re/all/val_id is2re/all/val_ood_ads
    is2re/all/val_ood_cat is2re/all/val_ood_both`
    """
    import torch

    with packages("train", "Evaluation"):
        from ..display import errors_table
        from ..evaluate import evaluate as run_evaluate
        from ..processes import room_for_workers, workers_watched
        from ..readers import Keys

    if threads is not None:
        torch.set_num_threads(threads)
    console, one, rows = Console(), len(data) == 1, {}
    for source in data:
        folder = out if one and out is not None else _evaluation_folder(source, out)
        with console.status("reading data") as status, workers_watched():
            result = run_evaluate(
                checkpoint,
                source,
                folder,
                split=split,
                keys=Keys(energy_key, forces_key, stress_key, labels=labels),
                bad_rows="skip" if skip_bad else "raise",
                max_force=max_force,
                free_atoms_only=free_atoms,
                workers=room_for_workers(1) if workers is None else workers,
                report=lambda done, frames: status.update(f"{done} of {frames} frames"),
            )
        rows["all" if one else source] = {"frames": result.n_frames, **result.errors}
        rows |= {**result.by_split, **result.by_source} if one else {}
        if result.skipped:
            console.print(f"{source}: {result.skipped}.", markup=False, soft_wrap=True)
        console.print(f"Written: {folder / 'evaluation.json'}, {folder / 'parity.png'}", soft_wrap=True, markup=False)
    console.print(errors_table(f"{checkpoint} on {data[0] if one else 'several data'}", rows))


def evaluate_conformers(
    checkpoint: Annotated[str, typer.Argument(help="A conformer model: a .safetensors file, or a shipped name.")],
    data: Annotated[str, typer.Argument(help="Folder or file of sets of conformers, as `fit` reads them.")],
    split: Annotated[str, typer.Option(help="Only molecules of this split of the data; all: all of them.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the rows; run again to go on; default: evaluation/ and the data's path."),
    ] = None,
    molecules: Annotated[int | None, typer.Option(min=1, help="So many molecules, drawn with the seed.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the sampler; default: what suits the weights.")] = None,
    relax_steps: Annotated[
        int, typer.Option(min=0, help="Measure again after so many steps of relaxation; 0: do not.")
    ] = 30,
    potential: Annotated[str, typer.Option(help="The potential that relaxes.")] = "geomformer-organic",
    properties: Annotated[
        int, typer.Option(min=0, help="Compute ensemble properties of so many molecules with GFN2-xTB.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of molecules and of the samples.")] = 0,
    geom_splits: Annotated[
        str | None, typer.Option(help="The split0.npy of a folder of GEOM's pickles, as in recipes.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: CUDA if there is one.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 1,
) -> None:
    """Compare a conformer model, and RDKit beside it, with references: coverage, stereochemistry, plausibility, time.

    Example: `geomol-train evaluate-conformers ditmc-small data/conformers --molecules 100 --properties 30`
    """
    import torch

    with packages("train", "Evaluation"):
        from ..display import named_rows
    with packages("providers", "Evaluation"):
        from ase_geomol.providers.conformers import ConformerProvider

        from ..conformers.evaluate import RESULT, Options
        from ..conformers.evaluate import evaluate_conformers as run_evaluate
        from ..conformers.summary import as_table, differences_as_table

    torch.set_num_threads(1)
    folder = _evaluation_folder(data) if out is None else out
    options = Options(
        split=None if split == "all" else split,
        molecules=molecules,
        relax_steps=relax_steps,
        potential=potential,
        properties=properties,
        seed=seed,
        geom_splits=geom_splits,
    )
    console = Console()
    with stoppable(folder), progress() as bar:
        task = bar.add_task("molecules", total=None)
        provider = ConformerProvider(checkpoint, steps=steps, device=device)

        def report(done: int, of_all: int) -> None:
            bar.update(task, completed=done, total=of_all)

        result = run_evaluate(provider, data, folder, options, workers, report)
    title = f"{checkpoint} on {data}: {result['rows']} molecules, {result['device']}"
    console.print(named_rows(title, *as_table(result["methods"])))
    if result["differences"]:
        told = "What the model's methods have more, mean over molecules ± standard error"
        console.print(named_rows(told, *differences_as_table(result["differences"])))
    for remark, count in result["remarks"].items():
        console.print(f"{remark}: {count}", soft_wrap=True, markup=False)
    for method, failures in result["failures"].items():
        lost = "; ".join(f"{reason}: {count}" for reason, count in failures.items())
        console.print(f"{method}, lost: {lost}", soft_wrap=True, markup=False)
    console.print(f"Written: {folder / RESULT}", soft_wrap=True, markup=False)


def submit(
    checkpoint: Annotated[str, typer.Argument(help="A .safetensors file.")],
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    in_domain: Annotated[str | None, typer.Option("--id", help="Structures of the test set in the domain.")] = None,
    ood_ads: Annotated[str | None, typer.Option(help="Those with other adsorbates.")] = None,
    ood_cat: Annotated[str | None, typer.Option(help="Those with other catalysts.")] = None,
    ood_both: Annotated[str | None, typer.Option(help="Those with both.")] = None,
    direct_forces: Annotated[
        bool, typer.Option(help="Forces of the direct head, where the weights know those of the gradient, too.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Predict test sets of OC20 (S2EF, IS2RE, IS2RS) and write them in the layout of its leaderboard. The same
    command goes on after a kill.

    Example: `geomol-train submit runs/s2ef-est/model.safetensors --id s2ef_test_id --ood-ads s2ef_test_ood_ads
    --ood-cat s2ef_test_ood_cat --ood-both s2ef_test_ood_both --out submission.npz`
    """
    with packages("train", "Predictions"):
        from ..processes import room_for_workers, workers_watched
        from ..submission import submit as run_submit

    given = {"id": in_domain, "ood_ads": ood_ads, "ood_cat": ood_cat, "ood_both": ood_both}
    console = Console()
    with console.status("predicting") as status, workers_watched():
        counts = run_submit(
            checkpoint,
            {split: source for split, source in given.items() if source is not None},
            out,
            direct_forces=direct_forces,
            workers=room_for_workers(1) if workers is None else workers,
            report=lambda split, frames: status.update(f"{split}: {frames} structures"),
        )
    told = ", ".join(f"{count} structures of {split}" for split, count in counts.items())
    console.print(f"{told} in {out}.", soft_wrap=True, markup=False)


def _evaluation_folder(data: str, out: Path | None = None) -> Path:
    """The path of the data below ``out`` (default: ``evaluation``), without its ending and the signs of a pattern.

    Many data sets have files of one name in folders that tell them apart.
    """
    path = Path(data)
    names = [part for part in (*path.parts[:-1], path.stem) if part not in (path.anchor, "..")]
    return Path(out or "evaluation", *(re.sub(r"[*?\[\]]", "", name) for name in names))


def rigidity(
    checkpoint: Annotated[str, typer.Argument(help="A .safetensors file, or the name of a shipped potential.")],
    data: Annotated[str, typer.Argument(help="Structures that it was trained on, or a training's folder.")],
    valid: Annotated[str | None, typer.Option(help="To validate; default: frames of DATA with this split.")] = None,
    test: Annotated[str | None, typer.Option(help="To measure on; default: likewise, or those to validate.")] = None,
    outside: Annotated[str | None, typer.Option(help="Unlike all of these: how uncertain are they?")] = None,
    save_as: Annotated[Path | None, typer.Option(help="Where the weights go; default: into CHECKPOINT.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: evaluation/ and the data's path.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Take so many random training frames.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of that choice.")] = 0,
    labels: Labels = "revised",
    energy_key: EnergyKey = "energy",
    forces_key: ForcesKey = "forces",
    skip_bad: SkipBad = False,
    max_force: Annotated[float | None, typer.Option(help="eV/Å; a row with a larger force is a bad one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU run.")] = None,
) -> None:
    """Let a potential know how uncertain it is: one pass over its training data, calibrated on validation data.

    The calculator then has `energy_std` and `energies_std`, and `ase-geomol md --stop-above` works.

    Examples:

    `geomol-train rigidity runs/mine/model.safetensors runs/mine`

    `geomol-train rigidity runs/mine/model.safetensors my_frames.extxyz --valid my_other_frames.extxyz`

    `geomol-train rigidity geomformer-organic data/organic --max-force 30 --skip-bad --save-as organic.safetensors`
    """
    import torch

    with packages("train", "Calibration"):
        from ..display import results_table
        from ..readers import Keys
        from ..rigidity import add_rigidity

    if threads is not None:
        torch.set_num_threads(threads)
    folder = _evaluation_folder(data) if out is None else out
    console = Console()
    with console.status("reading data") as status:
        found = add_rigidity(
            checkpoint,
            data,
            folder,
            save_as=save_as,
            valid=valid,
            test=test,
            outside=outside,
            max_frames=max_frames,
            seed=seed,
            keys=Keys(energy_key, forces_key, labels=labels),
            bad_rows="skip" if skip_bad else "raise",
            max_force=max_force,
            report=lambda what, done, frames: status.update(f"{what}: {done} of {frames}"),
        )
    form = found.form
    console.print(
        f"{form.frames} frames to learn from, {form.valid_frames} to validate: alpha {form.scale:.3g} eV, "
        f"s {form.regulariser:.0e} mean eigenvalues.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(results_table(f"Rigidity, measured on the {found.measured_on} frames", found.results))
    written = f"{found.path}, {folder / 'rigidity.json'}, {folder / 'calibration.png'}"
    console.print(f"Written: {written}", soft_wrap=True, markup=False)


def points(
    checkpoint: Annotated[str, typer.Argument(help="An EST potential: a shipped name or a .safetensors file.")],
    rule: Annotated[str, typer.Argument(help="The points of the sphere, as icosahedral-32.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
) -> None:
    """Put the weights of an EST on other points of the sphere: fewer are faster.

    Example: `geomol-train points est-crystal icosahedral-72 --out est-crystal-72.safetensors`
    """
    from ..points import use_points

    Console().print(f"Written: {use_points(checkpoint, rule, out)}", soft_wrap=True, markup=False)


def release(
    checkpoint: Annotated[Path, typer.Argument(help="The trained .safetensors file.")],
    notes: Annotated[Path, typer.Argument(help="YAML with the card's words.")],
    evaluation: Annotated[
        Path, typer.Argument(help="Folder of its evaluation on the test split, by evaluate or evaluate-conformers.")
    ],
    labels: Annotated[list[Path] | None, typer.Option(help="manifest.json of the labels; may be repeated.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of results of tests/benchmarks: those of these weights go on the card.")
    ] = None,
) -> None:
    """Ship a potential or conformer model: its weights, its card and its line in the registry go into the package.

    Example: `geomol-train release runs/geomformer-organic/model.safetensors
    training/recipes/shipped/geomformer_organic_card.yaml evaluation/organic`
    """
    with packages("train", "A release"):
        from ..release import release as run_release

    path = run_release(checkpoint, notes, evaluation, labels or (), results)
    Console().print(f"Shipped: {path} and {path.with_suffix('.md').name}", soft_wrap=True, markup=False)
