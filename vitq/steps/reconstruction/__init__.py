"""Block-wise reconstruction: what is learned, against which loss, along which schedule."""
