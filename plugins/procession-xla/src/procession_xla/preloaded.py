"""What the forkserver's server imports: JAX, which is not initialised by that.

Where it is imported, JAX reads its flags from the environment, and adds to it what its runtimes need.  A
rank's environment is its caller's at the time of the launch: so both are noted, for `procession_xla.flags`.
"""

from __future__ import annotations

import os

before: dict[str, str] = dict(os.environ)
"""The environment that JAX read its flags from."""

__import__("jax")

added: dict[str, str] = {
    name: value for name, value in os.environ.items() if before.get(name) != value
}
"""What it added to that, or changed."""
