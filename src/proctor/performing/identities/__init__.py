"""Who calls, and becoming that: in an executor, or in the lender of one right."""
