"""Plain torch modules of the papers, in 2D and 3D from the same definitions. They know no recipe, loss or cluster."""
