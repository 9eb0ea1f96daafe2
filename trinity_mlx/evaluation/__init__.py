"""Gates: the decisions of a lane, how much room they have, and whether they come out the same every time."""
