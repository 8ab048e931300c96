"""The optimizers that evaluate a function themselves, one module each; `schuss.closure_optimizers()` finds them."""
