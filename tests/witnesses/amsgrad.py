"""AMSGrad: torch. Optax takes the maximum of the corrected second moments, which differs in the first steps."""

from __future__ import annotations

from witnesses import BETAS, COMMON, MOMENTS, TorchOptim, in_pairs

TORCH = TorchOptim(
    "Adam",
    [{"amsgrad": True} | options for options in in_pairs(eps=1e-3, **BETAS, **COMMON)],
    MOMENTS | {"v_max": "max_exp_avg_sq"},
    words={"amsgrad": None},
)
