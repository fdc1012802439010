"""The command ``penstock``: a face over `penstock.client`, like every other."""
