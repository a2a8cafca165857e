"""Running experiments: plans, trainings, sweeps, merging."""
