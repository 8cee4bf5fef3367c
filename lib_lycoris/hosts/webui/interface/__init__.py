"""What users of a webui see and call: the tab, cards, settings, X/Y/Z axes, pasted texts, HTTP API."""
