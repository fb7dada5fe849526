"""`launcher=local`: worker processes on this machine, one for each slot."""
