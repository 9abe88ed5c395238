"""Conformers of molecules: making sets of them, learning to draw them, and measuring what is drawn."""
