"""The Ray edge: sessions, the embedding graph, and what watches them. The one place that imports ray."""
