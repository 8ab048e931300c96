"""The optimizers, one module each, named as their rules; a new file here and one in cpp/rules are a new optimizer."""
