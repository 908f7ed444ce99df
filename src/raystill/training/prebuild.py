"""Build the one C++ op that DeepSpeed's CPU workers use, so that the first training need not.

python -m raystill.training.prebuild
"""

import contextlib
import io
import sys
import time

from raystill.training import zero

OP = "deepspeed_shm_comm"


def prebuild() -> str:
    """Build the op unless it is there; a line saying what was done."""
    folder = zero.environment(gpu=False)
    if list((folder / OP).glob("*.so")):
        return f"DeepSpeed's CPU communication op is built already ({folder / OP})"
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        ShareMemCommBuilder().load(verbose=False)
    return f"built DeepSpeed's CPU communication op in {time.perf_counter() - began:.0f} s ({folder / OP})"


if __name__ == "__main__":
    sys.stdout.write(f"{prebuild()}\n")
