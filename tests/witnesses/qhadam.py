"""QHAdam: the authors' package does not run on today's torch; pytorch_optimizer's is made from it."""

from typing import Any

from witnesses import Arrays, Witness, from_torch


def _build(po: Any, params: Any, *, beta1: float, beta2: float, nu1: float, nu2: float, **arguments: float) -> Any:
    return po.QHAdam(params, betas=(beta1, beta2), nus=(nu1, nu2), weight_decouple=True, **arguments)


def _step(optimizer: Any) -> None:
    """Step with the sums of weights in float64, where pytorch_optimizer has float32."""
    for group in optimizer.param_groups:
        optimizer.init_group(group)
        for tensor in group["params"]:
            state = optimizer.state[tensor]
            state["beta1_weight"], state["beta2_weight"] = (
                state["beta1_weight"].double(),
                state["beta2_weight"].double(),
            )
    optimizer.step()


def _uncorrected(optimizer: Any, name: str, weight: str, which: int) -> Arrays:
    """Return the averages without the bias correction that they have in its state."""
    (group,) = optimizer.param_groups
    found = []
    for tensor in group["params"]:
        state = optimizer.state[tensor]
        found.append((state[name] * float(state[weight]) * (1 - group["betas"][which])).numpy())
    return found


ADAM = {"beta1": 0.9, "beta2": 0.999, "nu1": 1.0, "nu2": 1.0, "eps": 1e-8, "weight_decay": 0.0}

WITNESSES = [
    Witness(
        "pytorch_optimizer.QHAdam",
        from_torch("pytorch_optimizer", _build, _step),
        [
            {"lr": 0.05, "beta1": 0.995, "beta2": 0.999, "nu1": 0.7, "nu2": 1.0, "eps": 1e-8, "weight_decay": 0.0},
            {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "nu1": 0.3, "nu2": 0.6, "eps": 1e-3, "weight_decay": 0.1},
            {"lr": 0.05, "beta1": 0.9, "beta2": 0.99, "nu1": 0.0, "nu2": 0.0, "eps": 1e-3, "weight_decay": 0.0},
        ],
        {
            "m": lambda optimizer: _uncorrected(optimizer, "exp_avg", "beta1_weight", 0),
            "v": lambda optimizer: _uncorrected(optimizer, "exp_avg_sq", "beta2_weight", 1),
        },
    ),
    Witness(  # Adam where the means alone count
        "torch.optim.AdamW",
        from_torch(
            "torch",
            lambda torch, params, *, lr, beta1, beta2, nu1, nu2, eps, weight_decay: torch.optim.AdamW(
                params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay
            ),
        ),
        [ADAM | {"lr": 0.05}, ADAM | {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}],
        {"m": "exp_avg", "v": "exp_avg_sq"},
    ),
]
