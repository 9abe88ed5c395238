"""SMILES strings that providers of conformers stumble over: in time, in memory, in silence, or at all."""

from __future__ import annotations

CYCLOSPORIN = (
    "CC[C@H]1C(=O)N(CC(=O)N([C@H](C(=O)N[C@H](C(=O)N([C@H](C(=O)N[C@H](C(=O)N[C@@H](C(=O)N([C@H](C(=O)N([C@H](C(=O)"
    "N([C@H](C(=O)N([C@H](C(=O)N1)[C@@H]([C@H](C)C/C=C/C)O)C)C(C)C)C)CC(C)C)C)CC(C)C)C)C)C)CC(C)C)C)C(C)C)CC(C)C)C)C"
)
FULLERENE = (
    "c12c3c4c5c1c1c6c7c2c2c8c3c3c9c4c4c%10c5c5c1c1c6c6c%11c7c2c2c7c8c3c3c8c9c4c4c9c%10c5c5c1c1c6c6c%11c2c2c7c3c3c8c4"
    "c4c9c5c1c1c6c2c3c41"
)

NASTY: dict[str, tuple[str, ...]] = {
    "no SMILES": (
        "", " ", "garbage", "C1CC", "C(C", "C)C", "[C", "C]", "c1cccc1", "C==C", "C#=C", "[Xx]", "[C@@@H](N)C", "F/C=",
        "C%", "1CCC1", "CC O", "CC\tO", "SELECT * FROM atoms", "💧", "InChI=1S/CH4/h1H4", "C" * 20_000, "(((((",
        "C1" * 50,
        "\u0421CO", "CC(=O)\u039f", "\u2212C", "C#N\u2026", "C1CC1\u03b2", "C\xe9",
        "[999C]", "[C+99]", "$%&", "null", "nan", "-1",
    ),
    "impossible valence": (
        "C(C)(C)(C)(C)C", "O(C)(C)C", "FF(F)F", "N(C)(C)(C)C", "[CH5]", "c1ccc1c", "C=F", "Cl=O", "[H]([H])[H]",
    ),
    "several molecules": (
        "[Na+].[Cl-]", "CC(=O)[O-].[Na+]", "O.O.O.O.O.O", "C[N+](C)(C)C.[Br-]", "CCO.CCN",
        "[K+].[O-]S(=O)(=O)[O-].[K+]",
        "C1CC1.C1CC1", "CC(C)NCC(O)COc1ccccc1.Cl",
    ),
    "no element": ("*", "*C", "[*]CC[*]", "[1*]c1ccccc1", "C*C", "[*:1]C"),
    "charges": (
        "[NH4+]", "[OH-]", "C[N+](C)(C)CC(=O)[O-]", "[O-]C(=O)C(=O)[O-]", "[NH3+]CC[NH3+]", "C[N+]#[C-]", "[N-]=[N+]=N",
        "CC(=O)[CH-]C(C)=O", "c1cc[cH-]c1", "c1ccc[cH+]cc1", "[O-][Cl](=O)(=O)=O", "[O-]P([O-])([O-])=O",
        "C[P+](C)(C)C",
        "C[S+](C)C", "[B-](F)(F)(F)F", "[NH3+][C@@H](CCC(=O)[O-])C(=O)[O-]", "[H+]", "[OH3+]", "[C-]#[O+]", "C[C+](C)C",
    ),
    "radicals": (
        "[H]", "[CH3]", "[CH2]", "[OH]", "[O][O]", "[N]=O", "C[CH]C", "CC([O])=O", "c1cccc[c]1", "[Cl]", "C=C[CH2]",
        "CC1(C)CCCC(C)(C)N1[O]", "[CH2][CH2]", "[C]", "[O]N=O",
    ),
    "isotopes": (
        "[2H]O[2H]", "[13CH4]", "[2H]C([2H])([2H])C", "[13C]C", "[3H]C", "C[C@]([2H])(N)O", "[14NH3]", "[18F]C",
    ),
    "atoms and diatomics": (
        "[Na+]", "[He]", "[Fe+2]", "[Cl-]", "[U]", "[H][H]", "F", "N#N", "[Zn+2]", "Cl", "O=C=O", "O",
    ),
    "metals and heavy elements": (
        "C[Zn]C", "C[Hg]C", "C[Sn](C)(C)C", "[Pt](Cl)(Cl)(N)N", "C[Mg]Br", "CC[Pb](CC)(CC)CC", "C[Se]C", "[GeH4]",
        "C[As](C)C",
        "CC[Te]CC", "[Ni](C#O)(C#O)(C#O)C#O", "O=[V](Cl)(Cl)Cl", "C[Al](C)C", "[LiH]", "CI(=O)=O", "[Bi](C)(C)C",
    ),
    "hypervalent": (
        "FS(F)(F)(F)(F)F", "FP(F)(F)(F)F", "F[Si-2](F)(F)(F)(F)F", "FCl(F)F", "FI(F)(F)(F)(F)(F)F", "F[Xe]F",
        "O=[Xe](=O)=O",
        "CP(C)(C)(C)C", "FBr(F)(F)(F)F", "CS(C)(C)C",
    ),
    "strained": (
        "C12C3C4C1C5C2C3C45", "C12C3C1C23", "C123C(C1)(C2)C3", "C1#CC1", "C1CC2CC1C2", "C1C2CC1C2", "C1=CC=C1",
        "C1CC/C=C/C1",
        "C1CC1=C=C1CC1", "C1CC23CC4(COC24)N13", "C#CC1CC23CC(C2)N13", "C1CC=C=CC1", "C1C2CC3CC1CC(C2)C3",
        "C1=C2C=CC1=C2",
        "C12=C3C4=C5C1=C1C2=C3C4=C51", "N12CC1C2", "O1C2C3OC3C12", "C1C2C1C1CC21", "[C@H]12C3C4C1C5C2C3C45",
        "C1CC2(C1)CC1CC2C1",
        "C12(CCC1)CCCC2", "C1CC2CCC1CC2",
    ),
    "cages and rings": (
        FULLERENE, "C1CCCCCCCCCCCCC1", "C1CCCCCCCCCCCCCCCCCCCCCCCCCCCCC1", "C1COCCOCCOCCOCCOCCO1", CYCLOSPORIN,
        "O=C1CCCCCCCCCCN1", "C1CC2CCC1CCC2", "c1cc2ccc3ccc4ccc5ccc6ccc1c7c2c3c4c5c67", "C1CC2CC1CC2CC1CC2CCC1C2",
        "C1=CC2C3C4C5C6C1C1C2C2C3C3C4C4C5C5C6C1C1C2C3C4C51", "B12B3B4B5B1B6B2B3B4B56",
        "C[C@@H]1OC(=O)[C@@H](C)NC(=O)[C@H](C(C)C)NC(=O)[C@H](C)OC1=O", "C1Cc2ccc(cc2)CCc2ccc1cc2",
    ),
    "stereochemistry": (
        "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "C[C@H](O)[C@@H](C)O", r"F/C=C\F", "F/C=C/F", r"C/C=C\C=C/C",
        "CC[S@](C)=O",
        "C[C@H]1CC[C@@H](C)CC1", "C[C@H]1CC[C@H](C)CC1", "OC[C@H]1O[C@H](O)[C@H](O)[C@@H](O)[C@@H]1O", r"C/C(N)=N\O",
        "C[C@]12CC[C@H]3[C@@H](CC[C@H]4CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O", "CC=[C@]=CC", "C[Pt@SP1](F)(Cl)Br",
        "C[C@H](F)C(C)Cl",
        "C[C@@]12CC[C@@](C1)(C)C2", "C1CCC/C=C/CC1", r"O=C1/C(=C\c2ccccc2)SC(=O)N1", "C[N@+](CC)(CCC)c1ccccc1",
        "C[C@H]1C[N@]1C",
        r"CC/C=C\C/C=C\C/C=C\C/C=C\C/C=C\CCCC(=O)O",
    ),
    "large": (
        "C" * 100, "C" * 333, "C" * 400, "OCC" * 80 + "O", "N[C@@H](C)C(=O)" * 20 + "O",
        "N[C@@H](Cc1ccccc1)C(=O)" * 15 + "O",
        "c1ccccc1" * 2 + "c1ccccc1", "c1ccc(" * 12 + "c1ccccc1" + ")cc1" * 12, "C(C(C)(C)C)(C(C)(C)C)C(C)(C)C",
        "CC(C)(C)c1cc(C(C)(C)C)c(C(C)(C)C)c(C(C)(C)C)c1C(C)(C)C", "FC(F)(F)" + "C(F)(F)" * 30 + "F",
        "C[Si](C)(C)O" * 2 + "C",
        "C[Si](C)(O" * 20 + "C" + ")C" * 20,
    ),
}  # fmt: skip
"""By what is nasty about them."""
