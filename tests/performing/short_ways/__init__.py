"""The short ways of ordinary calls: they give what the long ones give, or are not gone."""
