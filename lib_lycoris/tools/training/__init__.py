"""Training, as far as programs without its packages know it: the options, and runs as processes of their own."""
