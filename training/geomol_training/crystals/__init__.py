"""Labels of crystals by any ASE calculator, which may live in a virtual environment of its own (the teacher)."""
