"""What a network file contains and how much it changes."""
