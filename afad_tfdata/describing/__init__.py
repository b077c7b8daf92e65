"""What the cards say: facts of a data set, a run and a graph, in three forms."""
