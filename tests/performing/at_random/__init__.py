"""Programs that call at random, natively and performed; PROCTOR_TRIES says how often, PROCTOR_SEED where they begin."""
