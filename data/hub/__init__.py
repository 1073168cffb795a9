"""The folder of a Hub data set, built locally, and the one commit that sends it."""
