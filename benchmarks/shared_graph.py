"""One graph for every resolution, and one tissue out of a large file: time and memory.

Time. Five resolutions of the simulated droplet kidney (13,913 cells x 600 genes, legacy layout):

* ours: the tissue is read and its graph made once (``stages.cells.clustering``), then five
  times Leiden;
* separate: five times what a notebook does with scanpy: load the file, take the tissue, normalise,
  log1p, highly variable genes, components, neighbours, Leiden.

Both have the same settings and must give the same clusters to the cell. They run in turn in one
process, after a warm-up that compiles what is compiled.

Memory. A file of the droplet atlas's layout and number of genes is generated (X and raw.X, 2,000
expressed genes a cell), its sixteen tissues in random order. One tissue is read in a process of its
own, and in another the file is loaded and the tissue taken. Both must give the same counts.

Run: ``python -m benchmarks.shared_graph [--folder DIR]``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.obs_of_a_large_atlas import N_GENES, SPEC, generate
from stages.cells import clustering
from stages.cells.settings import Leiden, Neighbours
from stages.inputs.settings import CellsFile

RESOLUTIONS = [0.2, 0.4, 0.8, 1.2, 1.6]
TISSUE = "Tissue_3"
PARAMS = Path("params.yaml")

Labels = list[NDArray[np.int64]]


def shared(path: Path, spec: CellsFile, graph: Neighbours, leiden: Leiden) -> Labels:
    """Cluster at every resolution from one graph."""
    cells = clustering.read_tissue(path, spec, "Kidney", name="tms-droplet", atlas="demo")
    made = clustering.neighbours(cells, graph)
    return [clustering.leiden(made, r, leiden.seed, leiden) for r in RESOLUTIONS]


def separate(path: Path, graph: Neighbours, leiden: Leiden) -> Labels:
    """Cluster at every resolution from the file, with scanpy alone."""
    import anndata
    import scanpy as sc

    labels = []
    for resolution in RESOLUTIONS:
        data = anndata.read_h5ad(path)
        data = data[data.obs["tissue"] == "Kidney"].copy().raw.to_adata()
        sc.pp.filter_genes(data, min_cells=graph.min_cells_per_gene)
        sc.pp.normalize_total(data, target_sum=graph.target_sum)
        sc.pp.log1p(data)
        n_top = min(graph.n_top_genes, data.n_vars)
        sc.pp.highly_variable_genes(data, flavor=graph.hvg_flavor, n_top_genes=n_top)
        data = data[:, data.var["highly_variable"]].copy()
        sc.pp.pca(data, n_comps=graph.n_comps, svd_solver=graph.svd_solver, random_state=graph.seed)
        sc.pp.neighbors(
            data,
            n_neighbors=graph.n_neighbors,
            use_rep="X_pca",
            transformer="sklearn",
            metric=graph.metric,
            random_state=graph.seed,
        )
        sc.tl.leiden(
            data,
            resolution=resolution,
            flavor=leiden.flavor,
            n_iterations=leiden.n_iterations,
            directed=leiden.directed,
            random_state=leiden.seed,
        )
        labels.append(data.obs["leiden"].astype(int).to_numpy(dtype=np.int64))
    return labels


def time_both(folder: Path, *, repeats: int) -> None:
    """Simulate, run both in turn, and print a table in Markdown."""
    from stages.inputs.demo.__main__ import simulate
    from stages.inputs.settings import SimulatedFile

    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    graph = Neighbours.model_validate(content["neighbours"])
    leiden = Leiden.model_validate(content["leiden"])
    path = folder / "tms-droplet.h5ad"
    of = SimulatedFile(out=path, cohort="tms", platform="droplet", layout="legacy")
    simulate("tms-droplet", of, seed=20260101)
    spec = SPEC.model_copy(update={"raw": path})
    shared(path, spec, graph, leiden)
    seconds: dict[str, list[float]] = {"ours": [], "separate": []}
    for _ in range(repeats):
        started = time.perf_counter()
        mine = shared(path, spec, graph, leiden)
        seconds["ours"].append(time.perf_counter() - started)
        started = time.perf_counter()
        theirs = separate(path, graph, leiden)
        seconds["separate"].append(time.perf_counter() - started)
        if not all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True)):
            msg = "the two ways give different clusters"
            raise RuntimeError(msg)
    print(f"{len(mine[0]):,} cells, {len(RESOLUTIONS)} resolutions, {repeats} repeats, in turn")
    print("| way | seconds (median, min to max) |\n|:--|--:|")
    for way, s in seconds.items():
        print(f"| {way} | {statistics.median(s):.1f} ({min(s):.1f} to {max(s):.1f}) |")
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["separate"], strict=True)]
    print(f"ratio of seconds: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


def one_reading(way: str, path: Path, out: Path) -> None:
    """Read one tissue in this process; write its counts' sum, seconds and peak memory."""
    spec = SPEC.model_copy(update={"raw": path})
    started = time.perf_counter()
    if way == "ours":
        counts = clustering.read_tissue(path, spec, TISSUE, name="large", atlas="benchmark").X
    else:
        import anndata

        data = anndata.read_h5ad(path)
        counts = data[data.obs["tissue"] == TISSUE].copy().X
    seconds = time.perf_counter() - started
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    weights = np.arange(counts.shape[0], dtype=np.float64) @ counts
    found = {"shape": counts.shape, "sum": float(counts.sum()), "weighted": float(weights.sum())}
    out.write_text(
        json.dumps({"seconds": seconds, "peak_mib": peak, "counts": found}), encoding="utf-8"
    )


def memory_of_both(folder: Path, *, n_cells: int) -> None:
    """Generate the large file, read a tissue both ways, and print a table in Markdown."""
    path = folder / "large.h5ad"
    generate(path, n_cells=n_cells)
    found = {}
    for way in ("ours", "loading"):
        out = folder / f"{way}.json"
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--way", way]
        subprocess.run([*command, "--file", str(path), "--out", str(out)], check=True)
        found[way] = json.loads(out.read_text(encoding="utf-8"))
    if found["ours"]["counts"] != found["loading"]["counts"]:
        msg = "the two ways read different counts"
        raise RuntimeError(msg)
    shape = found["ours"]["counts"]["shape"]
    print(
        f"{n_cells:,} cells x {N_GENES:,} genes, {path.stat().st_size / 1e9:.2f} GB; "
        f"one tissue of sixteen: {shape[0]:,} cells"
    )
    print("| way | seconds | peak memory (MiB) |\n|:--|--:|--:|")
    for way, figures in found.items():
        print(f"| {way} | {figures['seconds']:.1f} | {figures['peak_mib']:.0f} |")
    ratio = found["loading"]["peak_mib"] / found["ours"]["peak_mib"]
    print(f"ratio of peak memory: {ratio:.1f}")


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, help="where to put some 4 GB (default: temporary)")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=["ours", "loading"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        one_reading(args.way, args.file, args.out)
        return
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        memory_of_both(Path(scratch), n_cells=args.cells)
        time_both(Path(scratch), repeats=args.repeats)


if __name__ == "__main__":
    main()
