"""Base models as training sees them: one interface, whatever they are made of."""
