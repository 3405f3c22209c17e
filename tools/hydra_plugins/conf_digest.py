"""Let ``${conf_digest:}`` in ``conf/config.yaml`` stand for a sha256 over every file of ``conf/``.

DVC loads this through ``hydra.plugins_path`` whenever it composes ``params.yaml``.
"""

from pathlib import Path

from stages.base.compose import register_resolvers

register_resolvers(Path(__file__).parents[2] / "conf")
