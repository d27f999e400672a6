"""From shards of spectrograms to a trained network in a run directory."""
