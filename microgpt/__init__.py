"""Learn, train and use small GPTs on the machine you have."""

__version__ = "0.1.0"
