"""The start method ``dask``: each rank occupies a worker thread of a Dask cluster."""
