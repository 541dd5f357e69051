"""How good generated views are: scores beside baselines, consistency between views, and a report to read."""
