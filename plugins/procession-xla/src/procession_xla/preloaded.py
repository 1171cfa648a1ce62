"""Imports JAX in the forkserver's server, which does not initialise it.

At its import JAX reads its flags from the environment, and sets variables that its runtimes need.  A rank's
environment is that of its caller at the time of the launch.  This module therefore records both for
`procession_xla.flags`.
"""

from __future__ import annotations

import os

before: dict[str, str] = dict(os.environ)
"""The environment from which JAX read its flags."""

__import__("jax")

added: dict[str, str] = {
    name: value for name, value in os.environ.items() if before.get(name) != value
}
"""The variables that JAX added or changed."""
