"""The wrappers, one module each; `schuss.wrappers()` finds them."""
