"""From recordings to 16 kHz WAV to HDF5 shards of spectrograms."""
