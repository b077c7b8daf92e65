"""What the cards say about a data set, a run and a graph, as Markdown, JSON and CSV."""
