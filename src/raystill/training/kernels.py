"""Faster ways to compute the same on a GPU, taken where they are installed: flash attention and Liger's kernels.

Both are put in after the student was looked at on the CPU, where neither runs. That the exported folder gives the logits
of the trained student, which is checked before it is published, also holds them to plain transformers.
"""

import importlib.util
import sys
from typing import Any


def fit(model: Any, flash: bool = True) -> list[str]:
    """Put what is installed into a model that trains on GPUs; the names of what was put in.

    Without `flash` attention stays raystill's own, whose insides a loss can look at.
    """
    ways = {"flash attention": _flash, "Liger": _liger} if flash else {"Liger": _liger}
    return [name for name, put in ways.items() if put(model)]


def _flash(model: Any) -> bool:
    """Flash attention (arXiv 2307.08691). It keeps packed documents apart by their positions, which start at 0 in each."""
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        return False
    model.set_attn_implementation("flash_attention_2")
    return True


def _liger(model: Any) -> bool:
    """Liger's fused RMSNorm and SwiGLU (arXiv 2410.10989); the head and the loss stay raystill's own.

    Its rotary positions are left out: they replace a function of transformers for every model of the process, and know no
    partial ones, which Phi-4-mini has.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        return False
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN, _apply_liger_kernel_to_instance

    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False
    classes = vars(sys.modules[type(model).__module__])
    before = dict(classes)
    _apply_liger_kernel_to_instance(model, rope=False, cross_entropy=False, fused_linear_cross_entropy=False)
    # This model alone: what is loaded later, as for the export's check, stays plain transformers.
    classes.update(before)
    return True
