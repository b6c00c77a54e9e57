"""The replicated part of a training: cursor, notes, and on what footing each peer takes part.  Pure."""
