"""From a bundle to the project or module that an app developer drops in."""
