"""Check an image while it is built: that the pinned packages load, and Quarto where it is in it.

The Dockerfile runs this as the image's own user on its final file system. To learn what an image
holds, run ``python /opt/check/check_image.py`` in it.
"""

import argparse
import importlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

PYPROJECT = Path(__file__).with_name("pyproject.toml")
NAME = re.compile(r"[A-Za-z0-9._-]+")


def direct_needs(pyproject: Path) -> list[str]:
    """Return the distributions that the project's code imports.

    Parameters
    ----------
    pyproject
        The project's ``pyproject.toml``.

    Returns
    -------
    list of str
        The names in ``project.dependencies``, normalised as in PEP 503.
    """
    needs = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [_normalised(found.group()) for need in needs if (found := NAME.match(need))]


def faults(distributions: Sequence[str]) -> list[str]:
    """Import what each distribution installs, and return what is wrong.

    Parameters
    ----------
    distributions
        Names, normalised as in PEP 503.

    Returns
    -------
    list of str
        One line a fault; empty where all is well.
    """
    modules: dict[str, list[str]] = {name: [] for name in distributions}
    for module, owners in importlib.metadata.packages_distributions().items():
        for owner in {_normalised(name) for name in owners} & modules.keys():
            if module.isidentifier() and not module.startswith("_"):
                modules[owner].append(module)
    found = [f"{name} is not installed" for name, those in modules.items() if not those]
    for module in sorted(module for those in modules.values() for module in those):
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            found.append(f"{module} does not load: {error}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Report the versions, and return 1 where something does not load or is not as asked."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--torch", choices=["cpu", "cuda"], help="the build that torch must be")
    args = arguments.parse_args(argv)
    found = faults(direct_needs(PYPROJECT))
    lines = [f"Python {platform.python_version()}"]
    if not found:
        torch = importlib.import_module("torch")
        build = "cpu" if torch.version.cuda is None else "cuda"
        lines.append(f"torch {torch.__version__}, CUDA {torch.version.cuda}")
        if args.torch not in (None, build):
            found.append(f"torch {torch.__version__} is the {build} build, not {args.torch}")
    quarto = shutil.which("quarto")
    if quarto is None:
        lines.append("no Quarto: the wheels render")
    else:
        for words in (["check"], ["typst", "--version"]):
            if subprocess.run([quarto, *words], check=False).returncode != 0:
                found.append(f"quarto {' '.join(words)} failed")
    lines += [f"error: {fault}" for fault in found]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if found else 0


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
