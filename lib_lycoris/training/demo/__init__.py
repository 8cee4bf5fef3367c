"""How the demo model and its networks were made; nothing here is imported when an image is made."""
