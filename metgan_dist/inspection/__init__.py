"""A data set looked at as a whole before anybody waits for a training: what is understood of it, and what is wrong."""
