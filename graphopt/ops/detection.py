"""Object detection: which of many boxes to keep."""
