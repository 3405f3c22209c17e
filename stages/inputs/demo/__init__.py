"""Simulate cohorts with known truth, in the true layouts of the published files.

The demo exercises the whole pipeline offline. It says nothing about ageing: every change in it was
put there.

What is known, and where it stands (tables beside this module, read by
:mod:`stages.inputs.demo.model`):

``composition.csv``
    Mean share of every cell type in youth and in old age, with the source of each. Young means, and
    the old ones where the pooled counts allow, are the pooled counts of Tabula Muris Senis (Nature
    2020), shares below 0.2 percent at both ages left out. Where they lack a tissue (droplet
    marrow), an age (droplet lung) or the direction that the tissue is to show, the old mean is
    chosen: the young shares to a power, above 1 to crystallize and below 1 to disperse, or (droplet
    spleen) part of the way from the young to the old pooled shares, which are far apart. Marrow,
    kidney and limb muscle crystallize; lung and spleen disperse. Kimmel and the rat have no pooled
    counts: those of Tabula Muris Senis stand in for them, chosen too. Pooled counts are no
    per-animal truth of the real animals.
``substates.csv``
    Shares of the substates within types, all chosen. In kidney the substates disperse while the
    types crystallize, in lung they disperse too; within kidney, podocytes crystallize and
    macrophages disperse. ``*`` stands
    for all tissues or types not named.
``animals.csv``
    Animals with age and sex, labelled as in the published files: pooled labels such as ``3-M-5/6``;
    on FACS all old animals male, on droplet no male at 21 months and no female at 1, 24 and 30, as
    published. Some samples are declared too small to count. `rescued` is the part of the drift that
    caloric restriction takes back.
``cohorts.csv``
    Concentration of the Dirichlet-multinomial, cells a sample (its median differs a little between
    young and old: a trap for uncorrected metrics, which rarefaction addresses), share of
    unannotated cells, counts a cell.
``tissues.csv``
    Factor on the cells of a tissue: kidney has more, so that its rare types can be looked into.

Each animal's composition is drawn from a Dirichlet distribution around the mean of its age, its
cells from that. Counts of 600 genes follow from nested programmes
(:mod:`stages.inputs.demo.expression`), so that clustering finds the types first and splits the
frequent ones into substates at a finer resolution. A file depends on the seed and on its own name
only: the same seed gives the same bytes on one machine and software, in whatever order files are
made.

What differs from the published files: fewer cells, genes and counts; no batch effects or doublets;
no `obsm`, `varm` or neighbour graph, because a principal component analysis is not the same to the
last bit on every machine; the columns `louvain` (type), `leiden`, `free_annotation`
and `subtype` (substate) hold the truth, since no clustering was run; X of the processed files is
rounded to multiples of 1/1024, which packs better.
"""
