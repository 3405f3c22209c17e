"""Gene sets and networks in the layouts in which they are published, with their traps."""

import gzip

import pytest

from stages.base.errors import AtlasError
from stages.inputs import gene_sets
from stages.inputs.known import gene_sets_of
from stages.inputs.settings import GeneSets

GAF = "!gaf-version: 2.2\n!generated-by: GOC\n"


def annotation(symbol, relation, term, evidence):
    fields = ["UniProtKB", "P1", symbol, relation, term, "PMID:1", evidence, "", "P", "name", "syn"]
    return "\t".join([*fields, "protein", "taxon:9606", "20260101", "UniProt", "", ""]) + "\n"


def of(path, kind, **more):
    return GeneSets(path=path, format=kind, **more)


def written(tmp_path, text, name="file.txt"):
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_gmt_with_weights_and_empty_fields(tmp_path):
    path = written(tmp_path, "TERM (GO:1)\t\tGATA1,1.0\tTAL1\t\nB\tna\tCD19\r\n\n")
    found = gene_sets.read(of(path, "gmt"))
    assert found.sets == {"TERM (GO:1)": {"GATA1", "TAL1"}, "B": {"CD19"}}
    assert found.said == "2 sets"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A\tGATA1\n", r"line 1: 2 fields, where a term, a text and genes stand\. Is it gmt\?"),
        ("A\t\tx\nA\t\ty\n", r"line 2: the term 'A' comes twice"),
    ],
)
def test_gmt_that_is_none(tmp_path, text, fault):
    with pytest.raises(AtlasError, match=fault):
        gene_sets.read(of(written(tmp_path, text), "gmt"))


def test_gaf_drops_not_and_computed_annotations(tmp_path):
    rows = [
        annotation("GATA1", "involved_in", "GO:0000001", "IDA"),
        annotation("TAL1", "NOT|involved_in", "GO:0000001", "IDA"),
        annotation("KLF1", "acts_upstream_of", "GO:0000001", "IEA"),
        annotation("KLF1", "involved_in", "GO:0000002", "IMP"),
    ]
    path = written(tmp_path, GAF + "".join(rows), "goa.gaf.gz")
    found = gene_sets.read(of(path, "gaf"))
    assert found.sets == {"GO:0000001": {"GATA1", "KLF1"}, "GO:0000002": {"KLF1"}}
    assert found.said == ("4 annotations of 2 terms; left out: 1 with NOT, 0 by computation alone")
    found = gene_sets.read(of(path, "gaf", experimental=True))
    assert found.sets["GO:0000001"] == {"GATA1"}
    assert "1 by computation alone" in found.said


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("!gaf-version: 1.0\n" + annotation("A", "", "GO:1", "IDA"), r"gaf-version 1\.0, where 2"),
        (annotation("A", "", "GO:1", "IDA"), r"line 1: gaf-version is not said, where 2 is read"),
        (GAF + "a\tb\tc\n", r"line 3: 3 fields, the fifth no GO term"),
    ],
)
def test_gaf_that_is_none(tmp_path, text, fault):
    with pytest.raises(AtlasError, match=fault):
        gene_sets.read(of(written(tmp_path, text), "gaf"))


def test_trrust_pairs_of_several_modes_have_none(tmp_path):
    text = (
        "GATA1\tHBB\tActivation\t1;2\nGATA1\tHBB\tUnknown\t3\nSPI1\tCEBPA\tActivation\t4\n"
        "SPI1\tCEBPA\tRepression\t5\nTAL1\tKIT\tUnknown\t6\nSPI1\tSPI1\tActivation\t7\n"
        "BCL6\tPRDM1\tRepression\t8\n"
    )
    found = gene_sets.read(of(written(tmp_path, text), "trrust"))
    assert found.edges.values.tolist() == [
        ["GATA1", "HBB", "activates"],
        ["SPI1", "CEBPA", ""],
        ["TAL1", "KIT", ""],
        ["BCL6", "PRDM1", "represses"],
    ]
    assert found.said == (
        "7 rows of 5 pairs; 1 with both modes, which count as unknown; 1 of a gene with itself "
        "left out"
    )
    with pytest.raises(AtlasError, match=r"line 1: 4 fields, the third none of Activation"):
        gene_sets.read(of(written(tmp_path, "TF\tTarget\tMode\tPMID\n"), "trrust"))


LINKS = "protein1 protein2 combined_score\n"
INFO = "#string_protein_id\tpreferred_name\tprotein_size\tannotation\n"


def test_string_lists_both_directions_and_proteins_of_one_gene(tmp_path):
    info = INFO + "".join(f"9606.ENSP{n}\t{name}\t1\tx\n" for n, name in enumerate("ABA"))
    text = LINKS + (
        "9606.ENSP0 9606.ENSP1 900\n9606.ENSP1 9606.ENSP0 900\n9606.ENSP2 9606.ENSP1 400\n"
        "9606.ENSP0 9606.ENSP2 999\n9606.ENSP0 9606.ENSP7 700\n"
    )
    path = written(tmp_path, text, "links.txt.gz")
    names = written(tmp_path, info, "info.txt.gz")
    found = gene_sets.read(of(path, "string", names=names))
    # Two proteins of A are bound to B: the stronger counts.
    assert found.graded.values.tolist() == [["A", "B", 900.0]]
    assert found.said == (
        "5 rows of 1 pairs; left out: 1 rows of one gene, 1 proteins without a name"
    )


@pytest.mark.parametrize(
    ("text", "names", "fault"),
    [
        (LINKS + "9606.A 9606.B 0.9\n", True, r"line 2: the score '0\.9', where 0 to 1000 is read"),
        ("a b c\n", True, r"line 1: the header 'a b c'"),
        (LINKS, False, r"protein\.info or protein\.aliases of the same version\. Give it\."),
    ],
)
def test_string_that_is_none(tmp_path, text, names, fault):
    named = INFO + "9606.A\tA\t1\tx\n9606.B\tB\t1\tx\n"
    info = written(tmp_path, named, "info.txt") if names else None
    with pytest.raises(AtlasError, match=fault):
        gene_sets.read(of(written(tmp_path, text), "string", names=info))


OBO = """format-version: 1.2
data-version: releases/2026-01-01

[Term]
id: GO:0000001
name: root

[Term]
id: GO:0000002
alt_id: GO:0000009
is_a: GO:0000001 ! root

[Term]
id: GO:0000003
is_a: GO:0000002 {source="x"} ! middle
relationship: part_of GO:0000004 ! whole
relationship: regulates GO:0000005 ! other

[Term]
id: GO:0000004

[Term]
id: GO:0000005

[Typedef]
id: part_of
is_a: overlaps
"""


def test_genes_are_carried_to_what_a_term_is_a_kind_or_a_part_of(tmp_path):
    rows = [
        annotation("GATA1", "involved_in", "GO:0000003", "IDA"),
        annotation("TAL1", "NOT|involved_in", "GO:0000003", "IDA"),
        annotation("KLF1", "involved_in", "GO:0000009", "IDA"),
        annotation("HBB", "involved_in", "GO:0000099", "IDA"),
    ]
    path = written(tmp_path, GAF + "".join(rows), "goa.gaf")
    ontology = written(tmp_path, OBO, "go-basic.obo")
    found = gene_sets.read(of(path, "gaf", ontology=ontology))
    assert found.sets == {
        "GO:0000001": {"GATA1", "KLF1"},
        "GO:0000002": {"GATA1", "KLF1"},
        "GO:0000003": {"GATA1"},
        "GO:0000004": {"GATA1"},
        "GO:0000099": {"HBB"},
    }
    assert found.said.endswith("with what lies above 5 terms, 1 not in the ontology")
    with pytest.raises(AtlasError, match=r"has no terms of an ontology\. Give go-basic\.obo"):
        gene_sets.read(of(path, "gaf", ontology=path))


def test_aliases_of_one_source_where_a_protein_has_one(tmp_path):
    rows = ["#string_protein_id\talias\tsource"]
    rows += [f"9606.ENSP{n}\t{name}\tEnsembl_HGNC_symbol" for n, name in enumerate("ABCC")]
    rows += ["9606.ENSP1\tD\tEnsembl_HGNC_symbol", "9606.ENSP0\tE\tUniProt_GN_Synonyms"]
    names = written(tmp_path, "\n".join(rows) + "\n", "aliases.txt.gz")
    text = (
        LINKS + "9606.ENSP0 9606.ENSP2 900\n9606.ENSP0 9606.ENSP1 800\n9606.ENSP3 9606.ENSP0 950\n"
    )
    path = written(tmp_path, text)
    found = gene_sets.read(of(path, "string", names=names))
    assert found.graded.values.tolist() == [["A", "C", 950.0]]
    assert "1 proteins without a name" in found.said
    with pytest.raises(AtlasError, match=r"has no names of none\. Correct alias_source"):
        gene_sets.read(of(path, "string", names=names, alias_source="none"))


PANGLAO = (
    "species\tofficial gene symbol\tcell type\tnicknames\tubiquitousness index\t"
    "product description\tgene type\tcanonical marker\tgerm layer\torgan\tsensitivity_human\t"
    "sensitivity_mouse\tspecificity_human\tspecificity_mouse\n"
)


def test_panglaodb_species_may_be_both(tmp_path):
    rows = [("Mm Hs", "CD19"), ("Hs", "MS4A1"), ("Mm", "Cd79a")]
    text = PANGLAO + "".join(
        f'{species}\t{gene}\tB cells\tn\t0.1\t"a ""quoted"" word"\tx\t1\tm\tBlood\t1\t1\t0\t0\n'
        for species, gene in rows
    )
    path = written(tmp_path, text, "markers.tsv.gz")
    found = gene_sets.read(of(path, "panglaodb"))
    assert found.sets == {"B cells": {"CD19", "MS4A1"}}
    assert found.said == "3 markers of 1 cell types; left out: 1 of other species"
    assert gene_sets.read(of(path, "panglaodb", species="Mm")).sets == {
        "B cells": {"CD19", "Cd79a"}
    }
    with pytest.raises(AtlasError, match=r"no column species, official gene symbol"):
        gene_sets.read(of(written(tmp_path, "cell type\tx\n"), "panglaodb"))


def test_a_missing_or_damaged_file_is_one_line(tmp_path):
    with pytest.raises(AtlasError, match=r"cannot be read .* Correct gene_sets"):
        gene_sets.read(of(tmp_path / "none.gmt", "gmt"))
    damaged = tmp_path / "x.gmt.gz"
    damaged.write_bytes(b"no gzip")
    with pytest.raises(AtlasError, match=r"cannot be read"):
        gene_sets.read(of(damaged, "gmt"))


def test_symbols_take_the_names_of_the_model_and_what_was_read_is_said(tmp_path, caplog):
    caplog.set_level("INFO", logger="stages")
    trrust = written(tmp_path, "Gata1\tHBB\tActivation\t1\n", "trrust.tsv")
    gmt = written(tmp_path, "red\t\tHBB\tGATA1\tXYZ\n", "sets.gmt")
    files = {"trrust": of(trrust, "trrust"), "sets": of(gmt, "gmt")}
    found = gene_sets_of(files, {"GATA1": "ENSG1", "HBB": "ENSG2"})
    assert found.edges.values.tolist() == [["ENSG1", "ENSG2", "activates"]]
    assert found.families == {"sets": {"red": frozenset({"ENSG1", "ENSG2", "XYZ"})}}
    assert found.near == found.families["sets"]
    assert found.graded.empty
    assert "sets.gmt: 1 sets" in caplog.text
    assert "trrust.tsv: 1 rows of 1 pairs" in caplog.text
