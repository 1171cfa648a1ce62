"""A script without postponed annotations: ranks evaluate them as the caller does."""

import sys

import procession


def annotated(value: int) -> None:
    """Have an annotation."""


def tell(rank: int) -> bool:
    return annotated.__annotations__["value"] is int


if __name__ == "__main__":
    print(tell(0), procession.run(tell, nprocs=1, start_method=sys.argv[1]))
