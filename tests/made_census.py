"""Cells of several datasets, named as CZ CELLxGENE's Census names them, with a planted change."""

import numpy as np
import pandas as pd

COLUMNS = ["dataset_id", "donor_id", "tissue_general", "cell_type", "development_stage", "sex"]


def cells_of(n_datasets=7, seed=0):
    """Return cells: in the lung old donors are more uneven, in the liver they are not."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_datasets):
        for j in range(10):
            age = 25 + j if j < 5 else 65 + j
            for tissue, power in (("lung", 1.6), ("liver", 1.0)):
                logs = np.array([1.5, 0.5, 0.0, -0.5, -1.5]) + 0.2 * rng.normal(size=5)
                shares = np.exp(logs * (power if age > 60 else 1.0))
                counts = rng.multinomial(300, shares / shares.sum())
                for k, n in enumerate(counts):
                    row = [
                        f"set{i}",
                        f"d{i}-{j}",
                        tissue,
                        f"type {k}",
                        f"{age}-year-old stage",
                        "male",
                    ]
                    rows += [row] * n
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(is_primary_data=True, disease="normal")
