"""Network files as the tools read and write them."""
