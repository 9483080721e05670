"""Static INT8: annotation, calibration, the quantized layers and their integer-exact reference."""
