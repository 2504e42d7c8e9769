"""From readings to a twin that others can see: published, acted on, warned of, and told later what was missed."""
