"""Fetch the published atlases, and believe no byte that was not checked.

`download` moves bytes over HTTP and resumes; `checks` says what must be true of them; `checksums`
remembers what was learned on the first download; `archives` unpacks; `fetch` puts the four together
and makes one output whole or not at all. The command line is
``python -m stages.inputs.published --file NAME``.
"""
