"""One small adapter for each webui: where its running model is, and what it is called."""
