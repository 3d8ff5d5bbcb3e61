"""Measurements of the service and its peers. Each script says how it is run; results stand in RESULTS.md."""
