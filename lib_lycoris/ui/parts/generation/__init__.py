"""Parts of the pages that make images or train."""
