"""Real swarms under real faults that a seed decides; ``scripts/chaos.py`` runs it, docs/reliability.md tells of it."""
