"""Finds network files by the names that tags use, and caches what their headers say."""
