"""The modelled machine: tasks, filters, notifications, signals."""
