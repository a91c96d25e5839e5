"""What the model sees: maps, similarities, reports."""
