"""Updates and trainings with one fault each, and the finding that has to be made of each.

The faults are described in our words; many are of kinds that public projects have had. `UPDATES`
are arrays of one update; `TRAININGS` in `planted.trainings` are runs of a learner.
"""
