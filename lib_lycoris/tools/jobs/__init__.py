"""Running tools: jobs, progress and cancel, validation of options, allowed paths, worker threads."""
