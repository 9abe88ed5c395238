"""Everything that produces the weights of ase_geomol: labels, data sets, objectives, fitting, evaluation."""
