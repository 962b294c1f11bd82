"""Programs that exchange what a call is about while it is performed; PROCTOR_RACES says how often."""
