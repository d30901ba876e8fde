"""LM calls through the batch APIs of providers, at half the price: every call of every open example in one file."""
