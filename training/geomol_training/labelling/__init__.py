"""GFN2-xTB labels for molecules: who is labelled, where the atoms are put, and how the work is run."""
