"""The system made anew from its discs: namespace and catalog."""
