"""Running what is configured: plans, trainings, sweeps, merging."""
