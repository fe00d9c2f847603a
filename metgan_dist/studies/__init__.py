"""Studies: several methods trained and compared on the same tiles, as the tables of the papers are."""
