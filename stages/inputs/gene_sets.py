"""Read gene sets and networks as they are published, with what their files are known to do.

=========== ========================================================================================
gmt         Term, description and genes, separated by tabs. A weight behind a gene ("GATA1,1.0") is
            left out.
gaf         GO annotations, GAF 2: 17 columns, comments with ``!``; annotations with ``NOT`` are
            dropped, those that rest on computation alone on demand. With `ontology`
            (``go-basic.obo``) a gene of a term is one of all terms that it is a kind or a
            part of; else terms are as they are annotated.
trrust      Regulator, target, mode, references; no header. A pair that stands there with several
            modes has none that is known.
string      ``protein.links``: both directions of a pair are listed, and one is kept; scores are
            whole numbers of up to 1,000, those of the API are not. Proteins get the names of
            ``protein.info``, or those of one source of ``protein.aliases``, where a protein
            with several has none; pairs of one gene are dropped.
panglaodb   Markers: the species ``Mm Hs`` is both.
=========== ========================================================================================
"""

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.base.errors import AtlasError
from stages.inputs.settings import GeneSets

COMPUTED = frozenset({"IEA", "ISS", "ISO", "ISA", "ISM", "IGC", "IBA", "IBD", "IKR", "IRD", "RCA"})
"""Evidence codes of annotations by computation alone."""
MODES = {"Activation": "activates", "Repression": "represses", "Unknown": ""}
LARGEST_SCORE = 1000
GAF_COLUMNS = 15
"""Those of GAF 1; GAF 2 has two more, which may be empty."""


@dataclass(frozen=True)
class Found:
    """What a file holds, in the names that it uses."""

    said: str
    """What was read, and what was left out."""
    sets: dict[str, set[str]] | None = None
    edges: pd.DataFrame | None = None
    """``factor``, ``target``, ``sign``"""
    graded: pd.DataFrame | None = None
    """``first``, ``second``, ``score``"""


def read(of: GeneSets) -> Found:
    """Read a file in the format that the settings name.

    Raises
    ------
    AtlasError
        It is missing, or a line is not what the format has.
    """
    match of.format:
        case "gmt":
            return _gmt(of)
        case "gaf":
            return _gaf(of)
        case "trrust":
            return _trrust(of)
        case "string":
            return _string(of)
        case "panglaodb":
            return _panglaodb(of)


def _lines(path: Path, separator: str = "\t") -> Iterator[tuple[int, list[str]]]:
    """Yield the numbers and the fields of the lines of a text, packed or not."""
    try:
        opened = gzip.open if path.suffix == ".gz" else Path.open
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n").split(separator)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        msg = (
            f"{path} cannot be read ({' '.join(str(error).split())}). "
            "Correct gene_sets or fetch the file again."
        )
        raise AtlasError(msg) from None


def _wrong(of: GeneSets, line: int, what: str) -> AtlasError:
    return AtlasError(f"{of.path}, line {line}: {what}. Is it {of.format}? Correct gene_sets.")


def _gmt(of: GeneSets) -> Found:
    sets: dict[str, set[str]] = {}
    for line, fields in _lines(of.path):
        if len(fields) < 3:
            raise _wrong(of, line, f"{len(fields)} fields, where a term, a text and genes stand")
        genes = {gene.partition(",")[0].strip() for gene in fields[2:]} - {""}
        if fields[0] in sets:
            raise _wrong(of, line, f"the term {fields[0]!r} comes twice")
        sets[fields[0]] = genes
    return Found(f"{len(sets)} sets", sets=sets)


def _gaf(of: GeneSets) -> Found:
    sets: dict[str, set[str]] = {}
    version, n_not, n_computed, n_read = "", 0, 0, 0
    for line, fields in _lines(of.path):
        if fields[0].startswith("!"):
            if fields[0].startswith("!gaf-version:"):
                version = fields[0].partition(":")[2].strip()
            continue
        if not version.startswith("2"):
            raise _wrong(of, line, f"gaf-version {version or 'is not said'}, where 2 is read")
        if len(fields) < GAF_COLUMNS or not fields[4].startswith("GO:"):
            raise _wrong(of, line, f"{len(fields)} fields, the fifth no GO term")
        n_read += 1
        if "NOT" in fields[3].split("|"):
            n_not += 1
        elif of.experimental and fields[6] in COMPUTED:
            n_computed += 1
        else:
            sets.setdefault(fields[4], set()).add(fields[2])
    said = f"{n_read} annotations of {len(sets)} terms; left out: {n_not} with NOT"
    said = f"{said}, {n_computed} by computation alone"
    if of.ontology is not None:
        sets, unknown = _carried(sets, of.ontology)
        said = f"{said}; with what lies above {len(sets)} terms, {unknown} not in the ontology"
    return Found(said, sets=sets)


def _carried(sets: dict[str, set[str]], path: Path) -> tuple[dict[str, set[str]], int]:
    """Return sets with the genes of all terms below, and how many terms the ontology lacks."""
    above, other = _ontology(path)
    found: dict[str, set[str]] = {}
    for term, genes in sets.items():
        todo, reached = [other.get(term, term)], set()
        while todo:
            one = todo.pop()
            if one not in reached:
                reached.add(one)
                todo += above.get(one, ())
        for one in reached:
            found.setdefault(one, set()).update(genes)
    return found, sum(other.get(term, term) not in above for term in sets)


def _ontology(path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return of each term what it is a kind or a part of, and the terms that others now go by."""
    above: dict[str, list[str]] = {}
    other: dict[str, str] = {}
    stanza = term = ""
    for _, (line,) in _lines(path, "\n"):
        key, _, value = line.partition(": ")
        words = value.split()
        if line.startswith("["):
            stanza, term = line, ""
        elif stanza != "[Term]" or not words:
            continue
        elif key == "id":
            term = words[0]
            above[term] = []
        elif key == "alt_id":
            other[words[0]] = term
        elif key == "is_a":
            above.setdefault(term, []).append(words[0])
        elif key == "relationship" and words[0] == "part_of" and len(words) > 1:
            above.setdefault(term, []).append(words[1])
    if not above:
        msg = f"{path} has no terms of an ontology. Give go-basic.obo to gene_sets as ontology."
        raise AtlasError(msg)
    return above, other


def _trrust(of: GeneSets) -> Found:
    signs: dict[tuple[str, str], set[str]] = {}
    n_read = 0
    for line, fields in _lines(of.path):
        if len(fields) != 4 or fields[2] not in MODES:
            raise _wrong(
                of, line, f"{len(fields)} fields, the third none of {', '.join(sorted(MODES))}"
            )
        n_read += 1
        signs.setdefault((fields[0], fields[1]), set()).add(MODES[fields[2]])
    kept = {pair: found for pair, found in signs.items() if pair[0] != pair[1]}
    known = {pair: found - {""} for pair, found in kept.items()}
    rows = [
        (factor, target, next(iter(found)) if len(found) == 1 else "")
        for (factor, target), found in known.items()
    ]
    both = sum(len(found) > 1 for found in known.values())
    said = (
        f"{n_read} rows of {len(signs)} pairs; {both} with both modes, which count as unknown; "
        f"{len(signs) - len(kept)} of a gene with itself left out"
    )
    return Found(said, edges=pd.DataFrame(rows, columns=["factor", "target", "sign"]))


def _string(of: GeneSets) -> Found:
    names = _names(of)
    scores: dict[tuple[str, str], int] = {}
    n_read, n_same, unnamed = 0, 0, set()
    for line, fields in _lines(of.path, " "):
        if line == 1:
            if fields[:2] != ["protein1", "protein2"] or fields[-1] != "combined_score":
                raise _wrong(of, line, f"the header {' '.join(fields)[:60]!r}")
            continue
        score = fields[-1]
        if not score.isdigit() or int(score) > LARGEST_SCORE:
            raise _wrong(of, line, f"the score {score!r}, where 0 to {LARGEST_SCORE} is read")
        n_read += 1
        genes = sorted(names.get(protein, "") for protein in fields[:2])
        if not genes[0]:
            unnamed |= {protein for protein in fields[:2] if protein not in names}
        elif genes[0] == genes[1]:
            n_same += 1
        else:
            pair = genes[0], genes[1]
            scores[pair] = max(int(score), scores.get(pair, 0))
    rows = [(*pair, float(score)) for pair, score in scores.items()]
    said = (
        f"{n_read} rows of {len(scores)} pairs; left out: {n_same} rows of one gene, "
        f"{len(unnamed)} proteins without a name"
    )
    return Found(said, graded=pd.DataFrame(rows, columns=["first", "second", "score"]))


def _names(of: GeneSets) -> dict[str, str]:
    """Return the gene of each protein of STRING."""
    if of.names is None:
        msg = (
            f"{of.path} names proteins; gene_sets needs names, the file protein.info or "
            "protein.aliases of the same version. Give it."
        )
        raise AtlasError(msg)
    found: dict[str, set[str]] = {}
    of_source = False
    for line, fields in _lines(of.names):
        if line == 1:
            of_source = fields == ["#string_protein_id", "alias", "source"]
            if not of_source and fields[:2] != ["#string_protein_id", "preferred_name"]:
                raise _wrong(of, line, f"{of.names.name} has the header {fields[:2]}")
        elif not of_source or fields[2] == of.alias_source:
            found.setdefault(fields[0], set()).add(fields[1])
    if not found:
        msg = f"{of.names} has no names of {of.alias_source}. Correct alias_source of gene_sets."
        raise AtlasError(msg)
    return {protein: next(iter(names)) for protein, names in found.items() if len(names) == 1}


def _panglaodb(of: GeneSets) -> Found:
    sets: dict[str, set[str]] = {}
    place: dict[str, int] = {}
    n_read, n_other = 0, 0
    for line, raw in _lines(of.path):
        fields = next(csv.reader(["\t".join(raw)], delimiter="\t"))
        if line == 1:
            place = {name: number for number, name in enumerate(fields)}
            needed = ("species", "official gene symbol", "cell type")
            if missing := [name for name in needed if name not in place]:
                raise _wrong(of, line, f"no column {', '.join(missing)}")
            continue
        if len(fields) < len(place):
            raise _wrong(of, line, f"{len(fields)} fields, where the header has {len(place)}")
        n_read += 1
        if of.species not in fields[place["species"]].split():
            n_other += 1
            continue
        cell_type = fields[place["cell type"]]
        sets.setdefault(cell_type, set()).add(fields[place["official gene symbol"]])
    said = f"{n_read} markers of {len(sets)} cell types; left out: {n_other} of other species"
    return Found(said, sets=sets)
