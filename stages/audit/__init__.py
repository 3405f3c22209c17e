"""Whether what lies here is what the study says it is: where it is from, and if it comes out again.

``provenance`` (a stage; ``printed`` is what the paper shows of it) says what every output was made
from. ``verification`` recomputes a ``commit`` and holds every file against the committed one:
``compare`` finds what differs, ``verdicts`` judges it. ``fsck`` hashes what DVC keeps again. All
three read DVC's lock and objects through ``lock``.
"""
