"""Compose ``conf/`` into ``params.yaml``, and tell whether the one still follows from the other.

``dvc repro`` reads ``params.yaml`` and never looks at ``conf/``: a change there that was not
composed would silently have no effect. So ``params.yaml`` carries a digest of ``conf/`` (compared
by the first stage of the graph), and ``make reproduce`` composes anew whenever the digest differs.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.base import cli
from stages.base.errors import SettingsError
from stages.base.files import write_text
from stages.base.settings import PARAMS_FILE, check_machine, parse, short_keys

CONF = Path("conf")
DIGEST_KEY = "conf_digest"
NOTHING_GIVEN = "stages/inputs/__init__.py"
# The groups of conf/ of which one file each is chosen.
GROUPS = ("atlas", "model", "cellmodel")
# And one that is a fact about this machine: it goes into a file of its own, which decides nothing.
MACHINE = "compute"


def conf_digest(conf: Path) -> str:
    """Return the sha256 over names and texts of the YAML files below `conf`, blind to line ends.

    But for those that are facts about a machine.
    """
    digest = hashlib.sha256()
    for path in sorted(conf.rglob("*.yaml")):
        if path.parent.name == MACHINE:
            continue
        text = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(path.relative_to(conf).as_posix().encode() + b"\0" + text + b"\0")
    return digest.hexdigest()


def register_resolvers(conf: Path) -> None:
    """Teach OmegaConf ``conf_digest``, ``only``, ``unless``, ``last`` and ``spread``.

    ``only`` gives a list of the last word where the first two agree, ``unless`` where they do not.
    DVC repeats a stage over a list, and so leaves it out where the list is empty. ``last`` gives a
    list of the last of some, or of none, ``spread`` a number of names out of a list
    (:func:`spread`).
    """
    OmegaConf.register_new_resolver(DIGEST_KEY, lambda: conf_digest(conf), replace=True)
    OmegaConf.register_new_resolver(
        "only", lambda actual, wanted, name: [name] * (actual == wanted), replace=True
    )
    OmegaConf.register_new_resolver("last", lambda some: list(some)[-1:], replace=True)
    OmegaConf.register_new_resolver(
        "unless", lambda actual, refused, name: [name] * (actual != refused), replace=True
    )
    OmegaConf.register_new_resolver("given", lambda path: path or NOTHING_GIVEN, replace=True)
    OmegaConf.register_new_resolver("spread", spread, replace=True)


def spread(names: Sequence[str], number: int) -> list[str]:
    """Return so many of some names, the first and the last among them, at even distances.

    Checkpoints are saved at steps whose logarithms lie evenly, and so do those that are returned.

    Examples
    --------
    >>> spread(["step0", "step64", "step128", "step256", "step512"], 3)
    ['step0', 'step128', 'step512']
    """
    if len(names) <= number:
        return list(names)
    return [names[round(i * (len(names) - 1) / (number - 1))] for i in range(number)]


def compose(conf: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the settings that ``conf/`` and hydra overrides such as ``atlas=demo`` give.

    But for those of the machine, which are no part of the study.

    Raises
    ------
    SettingsError
        A group, file or key that does not exist, or an override that hydra cannot read.
    """
    content = _composed(conf, overrides)
    content.pop(MACHINE, None)
    return content


def _composed(conf: Path, overrides: Sequence[str]) -> dict[str, Any]:
    register_resolvers(conf)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf.resolve()), version_base=None):
            composed = hydra_compose(config_name="config", overrides=list(overrides))
        content = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        names = ", ".join(sorted(path.stem for path in (conf / "atlas").glob("*.yaml")))
        msg = (
            f"{conf} does not compose with {' '.join(overrides) or 'its defaults'}: {reason}. "
            f"Atlases: {names}. Mend conf/ or the override."
        )
        raise SettingsError(msg) from None
    if not isinstance(content, dict):
        msg = f"{conf}/config.yaml holds no settings"
        raise SettingsError(msg)
    # A model that is none has no state in which its systems could be measured.
    measured = content.get("systems") or {}
    content["systems"] = {name: of for name, of in measured.items() if of["states"]}
    return {str(key): value for key, value in content.items()}


def words(text: str) -> list[str]:
    """Return the words of ``KEY=VALUE ...``, of which a value in brackets or quotes is one.

    Raises
    ------
    SettingsError
        A bracket or a quote is not closed.

    Examples
    --------
    >>> words("a.b={x: 1, y: [2, 3]}  c='two words'")
    ['a.b={x: 1, y: [2, 3]}', "c='two words'"]
    """
    found: list[str] = []
    word, quote, depth = "", "", 0
    for character in text:
        if character.isspace() and not quote and not depth:
            found, word = [*found, word], ""
            continue
        word += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "[{(") - (character in "]})")
    if quote or depth:
        msg = f"{word!r} has an open bracket or quote; close it"
        raise SettingsError(msg)
    return [word for word in [*found, word] if word]


def placed(override: str, content: dict[str, Any], short: Mapping[str, str]) -> list[str]:
    """Return an override as hydra takes it: at its full key, there already or not.

    A map or a list takes the place of what is there, and is not merged with it.

    Parameters
    ----------
    content
        The settings without it.
    short
        Where a key lies that is written without its beginning
        (:func:`stages.base.settings.short_keys`).

    Raises
    ------
    SettingsError
        The word is no ``KEY=VALUE``, or a short key could be of several entries.

    Examples
    --------
    >>> local = {"atlas": {"cells": {"mine": {"columns": {"age": "age"}}}}}
    >>> short = {"columns": "atlas.cells.*"}
    >>> placed("columns.age=weeks", local, short)
    ['++atlas.cells.mine.columns.age=weeks']
    >>> placed("columns={animal: donor}", local, short)
    ['~atlas.cells.mine.columns', '++atlas.cells.mine.columns={animal: donor}']
    """
    key, equals, value = override.partition("=")
    if not equals or not key.strip("+~"):
        msg = f"{override!r} sets nothing; write KEY=VALUE"
        raise SettingsError(msg)
    if key[0] in "+~" or key in (*GROUPS, MACHINE):
        return [override]
    first = key.partition(".")[0]
    if first in short and first not in content:
        place, several, _ = short[first].partition(".*")
        entries = list(_at(place, content) or {}) if several else [""]
        if len(entries) != 1:
            msg = (
                f"{key} could be of {', '.join(entries)}; write it in full: "
                f"{place}.{entries[0]}.{override}"
            )
            raise SettingsError(msg)
        key = ".".join(part for part in (place, entries[0], key) if part)
    replaces = value[:1] in {"{", "["} and _at(key, content) is not None
    return [*([f"~{key}"] if replaces else []), f"++{key}={value}"]


def _at(key: str, content: Any) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def differences(left: Any, right: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the leaves in which two nested mappings differ, by dotted key."""
    if isinstance(left, dict) and isinstance(right, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted(set(left) | set(right), key=str):
            found |= differences(left.get(key), right.get(key), f"{prefix}.{key}".lstrip("."))
        return found
    return {} if left == right else {prefix: (left, right)}


def overridden(params: dict[str, Any], conf: Path) -> dict[str, tuple[Any, Any]]:
    """Return where ``params.yaml`` differs from what ``conf/`` composes to for its atlas.

    The result gives the two values (params, conf) by dotted key.

    Raises
    ------
    SettingsError
        ``conf/`` was changed after ``params.yaml`` was composed.
    """
    recorded, actual = params.get(DIGEST_KEY), conf_digest(conf)
    if recorded != actual:
        msg = (
            f"{PARAMS_FILE} does not follow from {conf}/: "
            f"it was composed from digest {str(recorded)[:12]}, "
            f"{conf}/ now has {actual[:12]}. Run make reproduce, which composes it again."
        )
        raise SettingsError(msg)
    return differences(params, compose(conf, [f"{key}={name}" for key, name in _chosen(params)]))


def _chosen(params: dict[str, Any]) -> list[tuple[str, str]]:
    """Return which file of each group of ``conf/`` the settings were composed from."""
    return [(group, str(params[group].get("name"))) for group in GROUPS if params.get(group)]


def write(content: dict[str, Any], path: Path) -> None:
    """Validate settings and write them as ``params.yaml``, atomically."""
    parse(content)
    _write(content, path)


def _write(content: dict[str, Any], path: Path) -> None:
    write_text(
        path,
        "# Composed from conf/ by `make reproduce`; change the files there.\n"
        + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _run(args: argparse.Namespace) -> None:
    current = _read(args.params)
    chosen = dict(_chosen(current))
    here = args.params.with_name(f"{MACHINE}.yaml")
    if name := _read(here).get("name"):
        chosen[MACHINE] = str(name)
    asked = any(getattr(args, name) for name in (*GROUPS, MACHINE, "set"))
    if not asked and current.get(DIGEST_KEY) == conf_digest(args.conf):
        if args.alone and not current["alone"][args.alone]:
            current["alone"][args.alone] = [args.alone]
            write(current, args.params)
        named = ", ".join(f"{group} {name}" for group, name in chosen.items())
        cli.log.info("%s follows from %s/ (%s)", args.params, args.conf, named)
        return
    for group in (*GROUPS, MACHINE):
        if name := getattr(args, group):
            chosen[group] = name
    groups = [f"{group}={name}" for group, name in chosen.items()]
    single = [word for text in args.set for word in words(text)]
    single += [f"alone.{args.alone}=[{args.alone}]"] if args.alone else []
    without = _composed(args.conf, groups) if single else {}
    overrides = [part for word in single for part in placed(word, without, short_keys())]
    content = _composed(args.conf, [*groups, *overrides])
    if of_machine := content.pop(MACHINE, None):
        check_machine(MACHINE, of_machine)
    write(content, args.params)
    _write(of_machine or {}, here)
    named = ", ".join(f"{group} {name}" for group, name in _chosen(content))
    cli.log.info("composed %s from %s/ (%s)", args.params, args.conf, named)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--conf", type=Path, default=CONF)
    parser.add_argument("--model", default="", help="a file of conf/model/")
    parser.add_argument("--cellmodel", default="", help="a file of conf/cellmodel/")
    parser.add_argument("--compute", default="", help="a file of conf/compute/: where shards run")
    parser.add_argument(
        "--atlas", default="", help="a file of conf/atlas/ (default: the present one)"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="single settings to override; keys of the atlas' only file may stand alone",
    )
    parser.add_argument(
        "--alone", choices=("cells", "heads"), help="make a paper on this system alone, too"
    )
    cli.add_params(parser)
    return cli.run(parser, _run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
