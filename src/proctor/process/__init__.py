"""Supervised commands: ``run``, ``spawn`` and their asyncio twins."""
