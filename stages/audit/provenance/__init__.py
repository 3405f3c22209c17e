"""Say of every output which code, settings, inputs, machine and moment it comes from.

The provenance of an output is that of the run that first wrote these bytes. A later run that
writes them again, here or in another copy of the repository, changes nothing: so
``reports/provenance.json``, which git keeps, comes out the same wherever the outputs do. A stage
whose outputs were fetched, and that nobody described, has no run.

What every stage has read and written is in ``dvc.lock``; what it ran from and on it noted itself
at its start (:mod:`stages.base.record`). Code or settings on which the two differ were changed
while the stage ran, and no one can say which of them its outputs come from: that is an error.
"""
