"""Real pretrained models, one a file: each gives a network, samples, and its task's own measure."""
