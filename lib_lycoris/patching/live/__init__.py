"""A running model's layers: their parameters, their forwards, and whether their base weights have changed."""
