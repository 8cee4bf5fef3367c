"""The parts of the page Block weight."""
