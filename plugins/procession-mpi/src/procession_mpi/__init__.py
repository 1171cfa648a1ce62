"""The start method ``mpi``: ranks that mpiexec places, in which MPI can be used."""
