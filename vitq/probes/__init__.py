"""What is looked at once a run is done: loss landscapes and the like. A probe never changes the run's result."""
