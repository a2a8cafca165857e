"""What is to be run, as data: experiments, specifications, presets, algorithms by name."""
