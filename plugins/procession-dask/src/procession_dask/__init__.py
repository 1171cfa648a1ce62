"""The start method ``dask``: ranks that hold places of a Dask cluster's worker threads."""
