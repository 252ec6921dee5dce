"""Analysis of whole levels: functions of every chunk and of every object, and densities; vertices stay where they are read."""
