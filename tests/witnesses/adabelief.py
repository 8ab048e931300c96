"""AdaBelief: optax has the paper's form, pytorch_optimizer the decoupled decay of the authors' code as well."""

from witnesses import Witness, from_optax, from_torch

WITNESSES = [
    Witness(
        "optax.adabelief",
        from_optax(lambda optax, lr, beta1, beta2, eps: optax.adabelief(lr, beta1, beta2, eps, eps_root=eps)),
        [
            {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-16},
            {"lr": 0.01, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
        ],
        {"m": lambda state: state[0].mu, "s": lambda state: state[0].nu},
    ),
    Witness(
        "pytorch_optimizer.AdaBelief",
        from_torch(
            "pytorch_optimizer",
            lambda po, params, lr, beta1, beta2, eps, weight_decay: po.AdaBelief(
                params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, weight_decouple=True
            ),
        ),
        [
            {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-16, "weight_decay": 0.0},
            {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.2},
        ],
        {"m": "exp_avg", "s": "exp_avg_var"},
    ),
]
