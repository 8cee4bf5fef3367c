"""Parts of the pages of the tools: fields, plan, progress, result."""
