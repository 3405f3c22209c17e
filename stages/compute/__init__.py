"""Where work is run: processes of this machine, several devices, a Dask cluster."""
