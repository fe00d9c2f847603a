"""Scoring trained runs against each other on the test tiles that they share."""
