"""Building blocks of drug-like molecules and the small molecules that meet them, as SMILES."""

from __future__ import annotations

# Rings and short chains that carry substituents at any C-H or N-H.
SCAFFOLDS: tuple[str, ...] = (
    # six-membered aromatic
    "c1ccccc1", "c1ccncc1", "c1cncnc1", "c1cnccn1", "c1ccnnc1", "c1ncncn1", "O=c1cc[nH]cc1", "O=c1cccc[nH]1",
    # five-membered aromatic
    "c1ccsc1", "c1ccoc1", "c1cc[nH]c1", "c1c[nH]cn1", "c1cn[nH]c1", "c1cscn1", "c1cocn1", "c1cnsc1",
    "c1cnoc1", "c1nc[nH]n1", "c1cn[nH]n1", "c1nn[nH]n1", "c1nncs1", "c1nnco1", "c1ncon1", "c1ncns1",
    # fused aromatic
    "c1ccc2[nH]ccc2c1", "c1ccc2ncccc2c1", "c1ccc2cnccc2c1", "c1ccc2[nH]cnc2c1", "c1ccc2occc2c1",
    "c1ccc2sccc2c1", "c1ccc2scnc2c1", "c1ccc2ocnc2c1", "c1ccc2[nH]ncc2c1", "c1ccc2ccccc2c1",
    "c1ccc2ncncc2c1", "c1cnc2[nH]cnc2n1", "c1ccc2nccnc2c1", "c1ccn2ccnc2c1", "c1ccc2c(c1)OCO2",
    "O=c1ccc2ccccc2o1", "O=c1[nH]cnc2ccccc12", "c1ccc2c(c1)[nH]c1ccccc12",
    # saturated and partly saturated
    "C1CCCCC1", "C1CCCC1", "C1CCC1", "C1CC1", "C1CCNCC1", "C1CNCCN1", "C1COCCN1", "C1CSCCN1", "C1CCNC1",
    "C1CNC1", "C1COC1", "C1CN1", "C1CO1", "C1CCOC1", "C1CCOCC1", "C1COCCO1", "C1COCO1", "C1CCSC1",
    "C1CSCCS1", "O=S1(=O)CCCC1", "O=S1(=O)CCNCC1", "C1=CCCCC1", "C1CC2CCC1C2", "C1CC2CCC1N2", "C1CC1C1CC1",
    "c1ccc2c(c1)CCC2", "c1ccc2c(c1)CCNC2", "C1CCCNCC1", "C1C=CSC1", "C1=CCNC1", "C1CSC=N1", "C1COC=N1",
    # lactams, imides, lactones, nucleobases
    "O=C1CCCN1", "O=C1CCCCN1", "O=C1CCN1", "O=C1CCC(=O)N1", "O=C1CNC(=O)N1", "O=C1CSC(=O)N1", "O=C1CCCO1",
    "O=C1COC(=O)N1", "O=c1cc[nH]c(=O)[nH]1", "O=c1cc[nH]c(=S)[nH]1", "Nc1cc[nH]c(=O)n1",
    "O=C1NC(=O)c2ccccc21",
    "O=C1CCCCC1", "O=C1CCCC1", "O=C1C=CC(=O)C=C1", "O=C1CN=Cc2ccccc2N1",
    # phosphorus, sulfur and open chains
    "C1COP(=O)(C)OC1", "CP1(=O)CCCC1", "CC1CCP(C)CC1", "C1CCSSC1", "O=S1(=O)NCc2ccccc21", "CCCCC", "CC(C)CC",
    "CCOCC", "CCSCC", "CC(=O)NC", "C=CC=C", "CC=CC",
)  # fmt: skip

# One open valence, marked *.
SUBSTITUENTS: tuple[str, ...] = (
    # carbon
    "*C", "*CC", "*C(C)C", "*CCC", "*C(C)(C)C", "*C=C", "*C#C", "*CC#C", "*C1CC1", "*C=O", "*C(C)=O", "*CC=C",
    # oxygen
    "*O", "*OC", "*OCC", "*CO", "*COC", "*OC(C)=O", "*C(=O)O", "*C(=O)OC", "*CC(=O)O", "*OCCO", "*OOC",
    "*C(O)C", "*OC=O", "*OC(=O)OC",
    # nitrogen
    "*N", "*NC", "*N(C)C", "*CN", "*C(N)=O", "*C(=O)NC", "*C(=O)N(C)C", "*NC(C)=O", "*C#N", "*CC#N",
    "*[N+](=O)[O-]", "*NC(N)=O", "*NC(=O)OC", "*OC(=O)N(C)C", "*NN", "*C(=O)NN", "*N=[N+]=[N-]", "*C=NO",
    "*C(=N)N", "*N=C=O", "*C(=O)NO", "*NO", "*N=NC", "*C=NC", "*ON=C", "*NC=O", "*[N+]#[C-]",
    # sulfur
    "*S", "*SC", "*SCC", "*S(C)=O", "*S(C)(=O)=O", "*S(N)(=O)=O", "*S(=O)(=O)NC", "*NS(C)(=O)=O", "*SSC",
    "*S(=O)(=O)O", "*S(=O)(=O)OC", "*C(N)=S", "*N=C=S", "*SC#N", "*NC(=S)NC", "*C(=O)SC", "*OS(C)(=O)=O",
    "*S(=O)(=O)F", "*S(=O)(=O)Cl", "*SC(F)(F)F", "*CS", "*C(=S)C",
    # phosphorus
    "*P(C)C", "*P(C)(C)=O", "*P(=O)(OC)OC", "*OP(=O)(O)O", "*OP(=O)(OC)OC", "*CP(=O)(O)O", "*P(=O)(O)O",
    "*NP(=O)(OC)OC", "*P", "*PC", "*OP(C)(=O)OC", "*P(C)(C)=S", "*OP(=S)(OC)OC", "*SP(=O)(OC)OC",
    "*P(=O)(OC)F", "*OP(C)C", "*P(OC)OC", "*CP(C)C", "*OP(=O)(O)OP(=O)(O)O",
    # fluorine
    "*F", "*C(F)(F)F", "*OC(F)(F)F", "*C(F)F", "*CF", "*C(=O)C(F)(F)F", "*OC(F)F", "*C(F)(F)C(F)(F)F",
    # chlorine
    "*Cl", "*CCl", "*C(Cl)(Cl)Cl", "*C(=O)Cl", "*CCCl", "*C=CCl", "*C(Cl)Cl", "*C(=O)CCl",
    # bromine
    "*Br", "*CBr", "*CCBr", "*C(Br)Br", "*C=CBr", "*C(=O)CBr", "*C(F)(F)Br", "*C#CBr",
    # iodine
    "*I", "*CI", "*CCI", "*C=CI", "*C#CI", "*C(=O)CI", "*C(F)(F)I",
)  # fmt: skip

# The substituents met most often in medicines: drawn for two places in three.
COMMON_SUBSTITUENTS: tuple[str, ...] = (
    "*C", "*C", "*CC", "*C(C)C", "*C(C)(C)C", "*C1CC1", "*O", "*O", "*OC", "*OC", "*OCC", "*CO", "*CCO", "*N",
    "*N", "*NC", "*N(C)C", "*CN", "*CN(C)C", "*C(N)=O", "*C(=O)NC", "*NC(C)=O", "*C#N", "*[N+](=O)[O-]",
    "*C(=O)O", "*C(=O)OC", "*C(C)=O", "*OC(C)=O", "*S(C)(=O)=O", "*S(N)(=O)=O", "*SC", "*S", "*F", "*F",
    "*Cl",
    "*Cl", "*Br", "*I", "*C(F)(F)F", "*OC(F)(F)F", "*C#C", "*C=C", "*C=O", "*OP(=O)(O)O", "*NC(N)=O",
)  # fmt: skip

# Two open valences: a scaffold at each end.
LINKERS: tuple[str, ...] = (
    "**", "*C*", "*CC*", "*C=C*", "*C#C*", "*C(=O)*", "*O*", "*CO*", "*C(=O)O*", "*COC*", "*N*", "*CN*",
    "*C(=O)N*", "*CNC(=O)*", "*C(=O)N(C)*", "*NC(=O)N*", "*OC(=O)N*", "*N=N*", "*C=N*", "*C=NN*", "*S*",
    "*CS*",
    "*S(=O)*", "*S(=O)(=O)*", "*S(=O)(=O)N*", "*NC(=S)N*", "*SS*", "*OP(=O)(OC)O*", "*P(C)(=O)*", "*P(C)*",
    "*P(=O)(O)O*", "*OCC*", "*OCCN*", "*C(=O)C*",
)  # fmt: skip

# These meet every molecule in pairs, clusters and contacts, and so belong to the training split always.
SMALL_MOLECULES: tuple[str, ...] = (
    # hydrides
    "[H][H]", "O", "N", "C", "[H]F", "[H]Cl", "[H]Br", "[H]I", "S", "P", "OO", "NN", "SS", "PP", "CC", "C=C",
    "C#C", "C=CC",
    # oxides, nitrogen, carbon
    "O=C=O", "[C-]#[O+]", "N#N", "C#N", "C=O", "CO", "O=CO", "CN", "NO", "NC=O", "CC#N", "N=C=O", "COC",
    "CNC",
    "C[N+](=O)[O-]", "CC(C)=O", "CC(=O)O", "CC=O", "O=NO", "O[N+](=O)[O-]", "[N-]=[N+]=O",
    # sulfur and phosphorus
    "S=C=O", "S=C=S", "O=S=O", "O=S(=O)=O", "OS(=O)(=O)O", "CS", "CSC", "CS(C)=O", "CSSC", "CP", "CP(C)C",
    "CP(C)(C)=O", "OP(=O)(O)O", "OP(O)O", "C=S", "SO", "SN", "PO", "PN", "PS",
    # halogens with themselves and with others
    "FF", "ClCl", "BrBr", "II", "FCl", "FBr", "FI", "ClBr", "ClI", "BrI", "CF", "CCl", "CBr", "CI",
    "FC(F)(F)F",
    "ClC(Cl)(Cl)Cl", "BrC(Br)Br", "ICI", "FC(F)F", "ClC(Cl)Cl", "OF", "OCl", "OBr", "OI", "NF", "NCl", "NBr",
    "NI", "FN(F)F", "FOF", "ClOCl", "SCl", "SBr", "SI", "FSF", "ClSCl", "BrSBr", "FP(F)F", "ClP(Cl)Cl",
    "BrP(Br)Br", "IP(I)I", "O=P(Cl)(Cl)Cl", "O=P(F)(F)F", "O=S(Cl)Cl", "O=S(=O)(F)F", "O=C(Cl)Cl",
    "FC(F)(F)I",
    "ClC=C", "BrC=C", "IC=C", "FC=C",
    # rings
    "c1ccccc1", "c1ccncc1", "c1ccsc1", "c1ccoc1", "c1c[nH]cn1", "C1CC1", "C1CCOC1",
)  # fmt: skip
