"""Equivariant transformer potentials as ASE calculators, with weights that work offline."""
