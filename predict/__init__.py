"""From a run directory and recordings to a ranked prediction CSV and its evaluation."""
