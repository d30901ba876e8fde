"""Language models: LM strings, clients, the call cache, concurrency, budgets, the offline stand-in and replay."""
