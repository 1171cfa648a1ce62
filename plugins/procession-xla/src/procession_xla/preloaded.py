"""What the forkserver's server imports: JAX, which is not initialised by that.

JAX reads its flags from the environment where it is imported: the server's, which is older than a rank's.
So what it was then is kept, for `procession_xla.member` to compare.
"""

from __future__ import annotations

import os

environment: dict[str, str] = {
    name: value for name, value in os.environ.items() if name.startswith("JAX_")
}

__import__("jax")
